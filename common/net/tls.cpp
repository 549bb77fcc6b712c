#include "common/net/tls.hpp"

#include <openssl/ssl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <string>

#include "common/net/openssl.hpp"
#include "common/protocol/frame.hpp"

namespace fedllm::net {
namespace {

constexpr std::size_t kPemBytesMax = std::size_t{1} << 20;
constexpr const char* kCiphersuites =
    "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";
constexpr const char* kGroups = "X25519:P-256";
constexpr const char* kSignatures = "ed25519:ecdsa_secp256r1_sha256:rsa_pss_rsae_sha256";
constexpr int kSecurityLevel = 2;
constexpr int kVerifyDepth = 2;

// ALPN's own form: one length byte, then the name (RFC 7301).
std::string alpn_wire() { return static_cast<char>(protocol::kAlpn.size()) + std::string(protocol::kAlpn); }

int select_alpn(SSL*, const unsigned char** out, unsigned char* out_size, const unsigned char* offered,
                unsigned offered_size, void*) {
    std::string_view rest(reinterpret_cast<const char*>(offered), offered_size);
    while (!rest.empty()) {
        const auto size = static_cast<unsigned char>(rest.front());
        const std::string_view name = rest.substr(1, size);
        if (name == protocol::kAlpn) {
            *out = reinterpret_cast<const unsigned char*>(name.data());
            *out_size = size;
            return SSL_TLSEXT_ERR_OK;
        }
        rest.remove_prefix(std::min<std::size_t>(1 + std::size_t{size}, rest.size()));
    }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

Result<std::string> read_pem(const Path& path) { return read_file(path, kPemBytesMax); }

template <class T>
Result<T> about_file(const Path& path, Result<T> result) {
    if (!result) return with_context(result.error(), path.string());
    return result;
}

// What others may not do to a key. systemd lends its root-owned credentials to a service by an ACL, which
// shows as the group's right to read (systemd.exec(5), LoadCredential=); root could read the key anyway.
mode_t forbidden_bits(const struct stat& facts) {
    const bool lent_by_root = facts.st_uid == 0 && ::geteuid() != 0;
    return lent_by_root ? S_IWGRP | S_IXGRP | S_IRWXO : S_IRWXG | S_IRWXO;
}

Result<Key> load_key(const Path& path) {
    FEDLLM_TRY_VOID(check_key_file(path));
    FEDLLM_TRY(const std::string pem, read_pem(path));
    return about_file(path, key_from_pem(pem));
}

Result<std::vector<Certificate>> load_certificates(const Path& path) {
    FEDLLM_TRY(const std::string pem, read_pem(path));
    return about_file(path, certificates_from_pem(pem));
}

Error refused(std::string_view doing) {
    return make_error(Errc::Internal, "OpenSSL, " + std::string(doing) + ": " + openssl_reasons());
}

Result<void> restrict_protocol(SSL_CTX& context) {
    SSL_CTX_set_security_level(&context, kSecurityLevel);
    const bool ok = SSL_CTX_set_min_proto_version(&context, TLS1_3_VERSION) == 1 &&
                    SSL_CTX_set_max_proto_version(&context, TLS1_3_VERSION) == 1 &&
                    SSL_CTX_set_ciphersuites(&context, kCiphersuites) == 1 &&
                    SSL_CTX_set1_groups_list(&context, kGroups) == 1 &&
                    SSL_CTX_set1_sigalgs_list(&context, kSignatures) == 1 &&
                    SSL_CTX_set_num_tickets(&context, 0) == 1 && SSL_CTX_set_max_early_data(&context, 0) == 1;
    if (!ok) return refused("restricting TLS");
    SSL_CTX_set_session_cache_mode(&context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(&context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET);
    const std::string alpn = alpn_wire();
    SSL_CTX_set_alpn_select_cb(&context, &select_alpn, nullptr);
    if (SSL_CTX_set_alpn_protos(&context, reinterpret_cast<const unsigned char*>(alpn.data()),
                                static_cast<unsigned>(alpn.size())) != 0) {  // this one returns 0 for success
        return refused("setting ALPN");
    }
    return {};
}

// A list that is not of our authority, or out of date, would not let a revoked peer in but keep all others
// out.
Result<void> check_crl(X509_CRL& crl, const std::vector<Certificate>& authorities) {
    const bool ours = std::any_of(authorities.begin(), authorities.end(), [&](const Certificate& authority) {
        return X509_NAME_cmp(X509_get_subject_name(authority.get()), X509_CRL_get_issuer(&crl)) == 0 &&
               X509_CRL_verify(&crl, X509_get0_pubkey(authority.get())) == 1;
    });
    openssl_reasons();
    if (!ours) return make_error(Errc::InvalidFile, "no authority of ours signed this revocation list");
    const ASN1_TIME* const next = X509_CRL_get0_nextUpdate(&crl);
    if (next != nullptr && X509_cmp_current_time(next) < 0) {
        return make_error(Errc::InvalidFile, "this revocation list is out of date: its next update was due");
    }
    return {};
}

Result<void> trust(SSL_CTX& context, const TlsFiles& files) {
    FEDLLM_TRY(const auto authorities, load_certificates(files.ca));
    X509_STORE* const store = SSL_CTX_get_cert_store(&context);
    for (const Certificate& authority : authorities) {
        if (X509_STORE_add_cert(store, authority.get()) != 1 ||
            SSL_CTX_add_client_CA(&context, authority.get()) != 1) {
            return refused("trusting " + files.ca.string());
        }
    }
    unsigned long flags = X509_V_FLAG_X509_STRICT;
    if (files.crl) {
        FEDLLM_TRY(const std::string pem, read_pem(*files.crl));
        FEDLLM_TRY(const auto crls, about_file(*files.crl, crls_from_pem(pem)));
        for (const Crl& crl : crls) {
            FEDLLM_TRY_VOID(about_file(*files.crl, check_crl(*crl, authorities)));
            if (X509_STORE_add_crl(store, crl.get()) != 1) return refused("using " + files.crl->string());
        }
        flags |= X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL;
    }
    if (X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(&context), flags) != 1)
        return refused("strict verification");
    SSL_CTX_set_verify(&context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    SSL_CTX_set_verify_depth(&context, kVerifyDepth);
    return {};
}

Result<void> present(SSL_CTX& context, const TlsFiles& files, bool server) {
    FEDLLM_TRY(const auto chain, load_certificates(files.certificate));
    FEDLLM_TRY(const PeerIdentity identity, about_file(files.certificate, identity_of(*chain.front())));
    if ((identity.role == Role::Server) != server) {
        return make_error(Errc::InvalidArgument, files.certificate.string() +
                                                     ": this certificate is for the role " +
                                                     std::string(name(identity.role)) + ", not for a " +
                                                     (server ? "server" : "client or operator"));
    }
    FEDLLM_TRY(const Key key, load_key(files.key));
    if (SSL_CTX_use_certificate(&context, chain.front().get()) != 1) {
        return refused("using " + files.certificate.string());
    }
    for (std::size_t i = 1; i < chain.size(); ++i) {
        if (SSL_CTX_add1_chain_cert(&context, chain[i].get()) != 1) return refused("using the chain");
    }
    if (SSL_CTX_use_PrivateKey(&context, key.get()) != 1 || SSL_CTX_check_private_key(&context) != 1) {
        openssl_reasons();
        return make_error(Errc::InvalidFile, files.key.string() +
                                                 ": this key does not belong to the certificate " +
                                                 files.certificate.string());
    }
    return {};
}

Result<TlsContext> make_context(const TlsFiles& files, bool server) {
    auto context = std::make_shared<asio::ssl::context>(server ? asio::ssl::context::tls_server
                                                               : asio::ssl::context::tls_client);
    SSL_CTX& native = *context->native_handle();
    FEDLLM_TRY_VOID(restrict_protocol(native));
    FEDLLM_TRY_VOID(trust(native, files));
    FEDLLM_TRY_VOID(present(native, files, server));
    return context;
}

}  // namespace

Result<TlsContext> make_server_context(const TlsFiles& files) { return make_context(files, /*server=*/true); }
Result<TlsContext> make_client_context(const TlsFiles& files) {
    return make_context(files, /*server=*/false);
}

Result<void> check_key_file(const Path& path) {
    struct stat facts {};
    if (::stat(path.c_str(), &facts) != 0 || (facts.st_mode & forbidden_bits(facts)) == 0) return {};
    return make_error(Errc::PermissionDenied,
                      path.string() + ": others can read this private key; run: chmod 600 " + path.string());
}

Result<PeerIdentity> own_identity(const TlsFiles& files) {
    FEDLLM_TRY(const auto chain, load_certificates(files.certificate));
    return about_file(files.certificate, identity_of(*chain.front()));
}

}  // namespace fedllm::net
