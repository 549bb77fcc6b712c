// RAII over the OpenSSL objects we use. Private to common/net.
#pragma once

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/result.hpp"
#include "common/net/identity.hpp"

namespace fedllm::net {

template <auto free>
struct OpensslFree {
    template <class T>
    void operator()(T* object) const {
        free(object);
    }
};

using Bio = std::unique_ptr<BIO, OpensslFree<&BIO_free_all>>;
using Key = std::unique_ptr<EVP_PKEY, OpensslFree<&EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, OpensslFree<&X509_free>>;
using Crl = std::unique_ptr<X509_CRL, OpensslFree<&X509_CRL_free>>;

// The reasons OpenSSL queued on this thread, emptied.
std::string openssl_reasons();

// InvalidFile when the text holds none. Keys with a passphrase are refused, never asked for.
Result<std::vector<Certificate>> certificates_from_pem(std::string_view pem);
Result<Key> key_from_pem(std::string_view pem);
Result<std::vector<Crl>> crls_from_pem(std::string_view pem);
std::string to_pem(const X509& certificate);
std::string to_pem(const EVP_PKEY& key);

Result<Timestamp> not_after_of(const X509& certificate);

// PeerUntrusted unless the certificate has exactly one fedllm:// URI.
Result<PeerIdentity> identity_of(const X509& certificate);

}  // namespace fedllm::net
