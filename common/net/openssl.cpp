#include "common/net/openssl.hpp"

#include <openssl/pem.h>

#include <ctime>

#include "common/crypto/sha256.hpp"

namespace fedllm::net {
namespace {

Bio reader(std::string_view text) { return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))); }

std::string contents(BIO* bio) {
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);
    return {data, static_cast<std::size_t>(size)};
}

// OpenSSL's default asks on the terminal; a daemon has none.
int no_passphrase(char*, int, int, void*) { return 0; }

template <class Handle, class Read>
Result<std::vector<Handle>> all_from_pem(std::string_view pem, std::string_view what, Read read) {
    const Bio bio = reader(pem);
    std::vector<Handle> all;
    while (auto* const one = read(bio.get())) all.emplace_back(one);
    // The last read always fails: with "no start line" at the end of good input, with anything else inside
    // bad one.
    const unsigned long last = ERR_peek_last_error();
    const bool at_end = ERR_GET_LIB(last) == ERR_LIB_PEM && ERR_GET_REASON(last) == PEM_R_NO_START_LINE;
    const std::string reasons = openssl_reasons();
    if (!at_end) return make_error(Errc::InvalidFile, "broken PEM " + std::string(what) + ": " + reasons);
    if (all.empty()) return make_error(Errc::InvalidFile, "no PEM " + std::string(what) + " in it");
    return all;
}

std::string fingerprint_of(const X509& certificate) {
    unsigned char* der = nullptr;
    const int size = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(&certificate), &der);
    FEDLLM_CHECK(size > 0, "OpenSSL encodes a public key");
    const auto digest = crypto::sha256(std::as_bytes(std::span(der, static_cast<std::size_t>(size))));
    OPENSSL_free(der);
    return crypto::to_hex(digest);
}

std::vector<std::string> uris_of(const X509& certificate) {
    std::vector<std::string> uris;
    using Names = std::unique_ptr<GENERAL_NAMES, OpensslFree<&GENERAL_NAMES_free>>;
    const Names names(
        static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(&certificate, NID_subject_alt_name, nullptr, nullptr)));
    for (int i = 0; names && i < sk_GENERAL_NAME_num(names.get()); ++i) {
        int type = 0;
        const void* const value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type);
        if (type != GEN_URI) continue;
        const auto* const text = static_cast<const ASN1_STRING*>(value);
        uris.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                          static_cast<std::size_t>(ASN1_STRING_length(text)));
    }
    return uris;
}

}  // namespace

std::string openssl_reasons() {
    std::string text;
    while (const unsigned long code = ERR_get_error()) {
        const char* const reason = ERR_reason_error_string(code);
        if (!text.empty()) text += "; ";
        text += reason != nullptr ? reason : "error " + std::to_string(code);
    }
    return text.empty() ? "no reason given" : text;
}

Result<std::vector<Certificate>> certificates_from_pem(std::string_view pem) {
    return all_from_pem<Certificate>(pem, "certificate", [](BIO* bio) {
        return PEM_read_bio_X509(bio, nullptr, &no_passphrase, nullptr);
    });
}

Result<std::vector<Crl>> crls_from_pem(std::string_view pem) {
    return all_from_pem<Crl>(
        pem, "CRL", [](BIO* bio) { return PEM_read_bio_X509_CRL(bio, nullptr, &no_passphrase, nullptr); });
}

Result<Key> key_from_pem(std::string_view pem) {
    Key key(PEM_read_bio_PrivateKey(reader(pem).get(), nullptr, &no_passphrase, nullptr));
    if (!key) {
        return make_error(Errc::InvalidFile,
                          "no PEM private key without passphrase in it: " + openssl_reasons());
    }
    return key;
}

std::string to_pem(const X509& certificate) {
    const Bio bio(BIO_new(BIO_s_mem()));
    FEDLLM_CHECK(PEM_write_bio_X509(bio.get(), &certificate) == 1, "OpenSSL writes PEM");
    return contents(bio.get());
}

std::string to_pem(const EVP_PKEY& key) {
    const Bio bio(BIO_new(BIO_s_secmem()));
    FEDLLM_CHECK(PEM_write_bio_PKCS8PrivateKey(bio.get(), &key, nullptr, nullptr, 0, nullptr, nullptr) == 1,
                 "OpenSSL writes PEM");
    return contents(bio.get());
}

Result<Timestamp> not_after_of(const X509& certificate) {
    std::tm end{};
    if (ASN1_TIME_to_tm(X509_get0_notAfter(&certificate), &end) != 1) {
        openssl_reasons();
        return make_error(Errc::InvalidFile, "a certificate without a readable end of validity");
    }
    return std::chrono::time_point_cast<Duration>(std::chrono::system_clock::from_time_t(::timegm(&end)));
}

Result<PeerIdentity> identity_of(const X509& certificate) {
    const std::vector<std::string> uris = uris_of(certificate);
    if (uris.size() != 1) {
        return make_error(Errc::PeerUntrusted, "the certificate has " + std::to_string(uris.size()) +
                                                   " URIs; expected one, fedllm://<role>/<name>");
    }
    FEDLLM_TRY(PeerIdentity identity, identity_from_uri(uris.front()));
    identity.fingerprint = fingerprint_of(certificate);
    return identity;
}

}  // namespace fedllm::net
