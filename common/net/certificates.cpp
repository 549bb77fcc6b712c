#include "common/net/certificates.hpp"

#include <openssl/rand.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "common/net/openssl.hpp"

namespace fedllm::net {
namespace {

Error failed(std::string_view doing) {
    return make_error(Errc::Internal, "OpenSSL, " + std::string(doing) + ": " + openssl_reasons());
}

Result<void> check_validity(const Validity& validity) {
    if (validity.not_before < validity.not_after) return {};
    return make_error(Errc::InvalidArgument, "a certificate must end after it begins");
}

// Goes into OpenSSL's "DNS:a,DNS:b" notation, so nothing but host name characters may pass.
Result<void> check_dns_name(const std::string& host) {
    const auto good = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
               c == '-';
    };
    if (!host.empty() && host.size() <= 253 && std::all_of(host.begin(), host.end(), good)) return {};
    return make_error(Errc::InvalidArgument, "'" + host + "' is not a DNS name");
}

Result<void> check_address(const std::string& address) {
    using Octets = std::unique_ptr<ASN1_OCTET_STRING, OpensslFree<&ASN1_OCTET_STRING_free>>;
    if (Octets(a2i_IPADDRESS(address.c_str()))) return {};
    openssl_reasons();
    return make_error(Errc::InvalidArgument, "'" + address + "' is not an IPv4 or IPv6 address");
}

Result<void> set_time(ASN1_TIME* field, Timestamp time) {
    const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
    if (ASN1_TIME_set(field, seconds) == nullptr) return failed("setting the validity");
    return {};
}

// 127 random bits: unguessable and unique without a database, and positive.
Result<void> set_serial(X509& certificate) {
    std::array<unsigned char, 16> bytes{};
    if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1)
        return failed("drawing the serial number");
    bytes[0] = static_cast<unsigned char>((bytes[0] & 0x7f) | 0x40);
    using Number = std::unique_ptr<BIGNUM, OpensslFree<&BN_free>>;
    const Number number(BN_bin2bn(bytes.data(), static_cast<int>(bytes.size()), nullptr));
    if (!number || BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(&certificate)) == nullptr) {
        return failed("setting the serial number");
    }
    return {};
}

Result<void> set_subject(X509& certificate, std::string_view name) {
    const auto* const text = reinterpret_cast<const unsigned char*>(name.data());
    if (X509_NAME_add_entry_by_NID(X509_get_subject_name(&certificate), NID_commonName, MBSTRING_UTF8, text,
                                   static_cast<int>(name.size()), -1, 0) != 1) {
        return failed("setting the subject");
    }
    return {};
}

Result<void> add_extension(X509& certificate, X509& issuer, int nid, const std::string& value) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, &issuer, &certificate, nullptr, nullptr, 0);
    using Extension = std::unique_ptr<X509_EXTENSION, OpensslFree<&X509_EXTENSION_free>>;
    const Extension extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
    if (!extension || X509_add_ext(&certificate, extension.get(), -1) != 1) {
        return failed(std::string("adding the extension ") + OBJ_nid2sn(nid));
    }
    return {};
}

struct Draft {
    Certificate certificate;
    Key key;
};

Result<Draft> make_draft(std::string_view subject, const Validity& validity) {
    FEDLLM_TRY_VOID(check_validity(validity));
    Draft draft{Certificate(X509_new()), Key(EVP_EC_gen("P-256"))};
    if (!draft.certificate || !draft.key) return failed("making a key");
    X509& certificate = *draft.certificate;
    if (X509_set_version(&certificate, X509_VERSION_3) != 1) return failed("setting the version");
    FEDLLM_TRY_VOID(set_serial(certificate));
    FEDLLM_TRY_VOID(set_subject(certificate, subject));
    FEDLLM_TRY_VOID(set_time(X509_getm_notBefore(&certificate), validity.not_before));
    FEDLLM_TRY_VOID(set_time(X509_getm_notAfter(&certificate), validity.not_after));
    if (X509_set_pubkey(&certificate, draft.key.get()) != 1) return failed("setting the public key");
    return draft;
}

Result<Credentials> sign(Draft draft, X509& issuer, EVP_PKEY& issuer_key) {
    // After the public key is set: both are made from the keys.
    FEDLLM_TRY_VOID(add_extension(*draft.certificate, issuer, NID_subject_key_identifier, "hash"));
    FEDLLM_TRY_VOID(add_extension(*draft.certificate, issuer, NID_authority_key_identifier, "keyid:always"));
    if (X509_set_issuer_name(draft.certificate.get(), X509_get_subject_name(&issuer)) != 1 ||
        X509_sign(draft.certificate.get(), &issuer_key, EVP_sha256()) <= 0) {
        return failed("signing");
    }
    return Credentials{to_pem(*draft.certificate), to_pem(*draft.key)};
}

Result<std::string> alternative_names(const CertificateRequest& request) {
    std::string names = "URI:" + to_uri(request.role, request.name);
    for (const auto& host : request.dns_names) {
        FEDLLM_TRY_VOID(check_dns_name(host));
        names += ",DNS:" + host;
    }
    for (const auto& address : request.addresses) {
        FEDLLM_TRY_VOID(check_address(address));
        names += ",IP:" + address;
    }
    return names;
}

}  // namespace

Validity valid_for(Timestamp now, std::chrono::days days) {
    return {now - std::chrono::hours(1), now + days};
}

Result<Credentials> create_authority(std::string_view name, const Validity& validity) {
    if (name.empty() || name.size() > 64) {
        return make_error(Errc::InvalidArgument, "an authority's name has 1 to 64 bytes");
    }
    FEDLLM_TRY(Draft draft, make_draft(name, validity));
    X509& self = *draft.certificate;
    EVP_PKEY& key = *draft.key;
    FEDLLM_TRY_VOID(add_extension(self, self, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
    FEDLLM_TRY_VOID(add_extension(self, self, NID_key_usage, "critical,keyCertSign,cRLSign"));
    return sign(std::move(draft), self, key);
}

Result<Credentials> issue_certificate(const Credentials& authority, const CertificateRequest& request) {
    FEDLLM_TRY_VOID(check_peer_name(request.name));
    if (request.role == Role::Server && request.dns_names.empty() && request.addresses.empty()) {
        return make_error(Errc::InvalidArgument,
                          "a server's certificate needs the names or addresses that clients "
                          "will connect to");
    }
    FEDLLM_TRY(const std::string names, alternative_names(request));
    FEDLLM_TRY(const auto issuers, certificates_from_pem(authority.certificate_pem));
    FEDLLM_TRY(const Key issuer_key, key_from_pem(authority.key_pem));
    if (X509_check_private_key(issuers.front().get(), issuer_key.get()) != 1) {
        openssl_reasons();
        return make_error(Errc::InvalidArgument, "the authority's key does not belong to its certificate");
    }
    X509& issuer = *issuers.front();
    FEDLLM_TRY(Draft draft, make_draft(request.name, request.validity));
    X509& certificate = *draft.certificate;
    const char* const usage = request.role == Role::Server ? "serverAuth" : "clientAuth";
    FEDLLM_TRY_VOID(add_extension(certificate, issuer, NID_basic_constraints, "critical,CA:FALSE"));
    FEDLLM_TRY_VOID(add_extension(certificate, issuer, NID_key_usage, "critical,digitalSignature"));
    FEDLLM_TRY_VOID(add_extension(certificate, issuer, NID_ext_key_usage, usage));
    FEDLLM_TRY_VOID(add_extension(certificate, issuer, NID_subject_alt_name, names));
    return sign(std::move(draft), issuer, *issuer_key);
}

Result<CertificateFacts> read_certificate(std::string_view certificate_pem) {
    FEDLLM_TRY(const auto certificates, certificates_from_pem(certificate_pem));
    const X509& certificate = *certificates.front();
    FEDLLM_TRY(const PeerIdentity identity, identity_of(certificate));
    FEDLLM_TRY(const Timestamp not_after, not_after_of(certificate));
    return CertificateFacts{identity, not_after};
}

}  // namespace fedllm::net
