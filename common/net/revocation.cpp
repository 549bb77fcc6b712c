#include "common/net/revocation.hpp"

#include <openssl/pem.h>

#include "common/net/openssl.hpp"

namespace fedllm::net {
namespace {

using Number = std::unique_ptr<ASN1_INTEGER, OpensslFree<&ASN1_INTEGER_free>>;
using Time = std::unique_ptr<ASN1_TIME, OpensslFree<&ASN1_TIME_free>>;

Error failed(std::string_view doing) {
    return make_error(Errc::Internal, "OpenSSL, " + std::string(doing) + ": " + openssl_reasons());
}

Error foreign(std::string_view what) {
    openssl_reasons();
    return make_error(Errc::PermissionDenied, std::string(what) + " is not of this authority");
}

Result<Crl> list_so_far(std::string_view pem, X509& issuer) {
    if (pem.empty()) {
        Crl crl(X509_CRL_new());
        if (!crl || X509_CRL_set_version(crl.get(), X509_CRL_VERSION_2) != 1 ||
            X509_CRL_set_issuer_name(crl.get(), X509_get_subject_name(&issuer)) != 1) {
            return failed("making a revocation list");
        }
        return crl;
    }
    FEDLLM_TRY(auto lists, crls_from_pem(pem));
    if (X509_CRL_verify(lists.front().get(), X509_get0_pubkey(&issuer)) != 1)
        return foreign("the revocation list");
    return std::move(lists.front());
}

// Whether it was not on the list before.
Result<bool> add(X509_CRL& crl, X509& certificate, X509& issuer, const Time& now) {
    if (X509_verify(&certificate, X509_get0_pubkey(&issuer)) != 1) return foreign("the certificate");
    X509_REVOKED* listed = nullptr;
    if (X509_CRL_get0_by_cert(&crl, &listed, &certificate) == 1) return false;
    using Entry = std::unique_ptr<X509_REVOKED, OpensslFree<&X509_REVOKED_free>>;
    Entry entry(X509_REVOKED_new());
    if (!entry || X509_REVOKED_set_serialNumber(entry.get(), X509_get_serialNumber(&certificate)) != 1 ||
        X509_REVOKED_set_revocationDate(entry.get(), now.get()) != 1 ||
        X509_CRL_add0_revoked(&crl, entry.get()) != 1) {
        return failed("adding to the revocation list");
    }
    entry.release();  // the list owns it now
    return true;
}

Result<void> count_up(X509_CRL& crl) {
    const Number before(
        static_cast<ASN1_INTEGER*>(X509_CRL_get_ext_d2i(&crl, NID_crl_number, nullptr, nullptr)));
    const Number next(ASN1_INTEGER_new());
    const long number = before ? ASN1_INTEGER_get(before.get()) + 1 : 1;
    if (!next || ASN1_INTEGER_set(next.get(), number) != 1 ||
        X509_CRL_add1_ext_i2d(&crl, NID_crl_number, next.get(), 0, X509V3_ADD_REPLACE) != 1) {
        return failed("numbering the revocation list");
    }
    return {};
}

std::string pem_of(X509_CRL& crl) {
    const Bio bio(BIO_new(BIO_s_mem()));
    PEM_write_bio_X509_CRL(bio.get(), &crl);
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &data);
    return {data, static_cast<std::size_t>(size)};
}

}  // namespace

Result<Revocation> revoke(const Credentials& authority, std::string_view crl_pem,
                          const std::vector<std::string>& certificate_pems, Timestamp now) {
    FEDLLM_TRY(const auto issuers, certificates_from_pem(authority.certificate_pem));
    FEDLLM_TRY(const Key key, key_from_pem(authority.key_pem));
    X509& issuer = *issuers.front();
    FEDLLM_TRY(const Crl crl, list_so_far(crl_pem, issuer));
    const Time time(ASN1_TIME_set(nullptr, std::chrono::system_clock::to_time_t(now)));
    Revocation revocation;
    for (const std::string& pem : certificate_pems) {
        FEDLLM_TRY(const auto certificates, certificates_from_pem(pem));
        FEDLLM_TRY(const bool added, add(*crl, *certificates.front(), issuer, time));
        revocation.added += added ? 1 : 0;
    }
    FEDLLM_TRY_VOID(count_up(*crl));
    if (X509_CRL_set1_lastUpdate(crl.get(), time.get()) != 1 ||
        X509_CRL_set1_nextUpdate(crl.get(), X509_get0_notAfter(&issuer)) != 1 ||
        X509_CRL_sort(crl.get()) != 1 || X509_CRL_sign(crl.get(), key.get(), EVP_sha256()) <= 0) {
        return failed("signing the revocation list");
    }
    revocation.crl_pem = pem_of(*crl);
    return revocation;
}

}  // namespace fedllm::net
