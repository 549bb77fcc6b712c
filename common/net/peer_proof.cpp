#include "common/net/peer_proof.hpp"

#include <openssl/ssl.h>

#include <string>

#include "common/net/openssl.hpp"

namespace fedllm::net {

struct PeerProof::Shown {
    struct FreeChain {
        void operator()(STACK_OF(X509) * chain) const { sk_X509_pop_free(chain, X509_free); }
    };
    Certificate certificate;
    std::unique_ptr<STACK_OF(X509), FreeChain> chain;
};

PeerProof::PeerProof() = default;
PeerProof::PeerProof(PeerProof&& other) noexcept = default;
PeerProof& PeerProof::operator=(PeerProof&& other) noexcept = default;
PeerProof::~PeerProof() = default;

PeerProof::PeerProof(SSL* connection) : shown_(std::make_unique<Shown>()) {
    shown_->certificate.reset(SSL_get1_peer_certificate(connection));
    if (STACK_OF(X509)* const chain = SSL_get_peer_cert_chain(connection)) {
        shown_->chain.reset(X509_chain_up_ref(chain));
    }
    if (const auto end = shown_->certificate ? not_after_of(*shown_->certificate) : Timestamp::max()) {
        not_after_ = *end;
    }
}

// As ssl_verify_cert_chain() of OpenSSL does for a client's certificate.
Result<void> PeerProof::check(const TlsContext& context) const {
    if (!shown_ || !shown_->certificate)
        return make_error(Errc::PeerUntrusted, "the peer has no certificate");
    using Verification = std::unique_ptr<X509_STORE_CTX, OpensslFree<&X509_STORE_CTX_free>>;
    const Verification verification(X509_STORE_CTX_new());
    SSL_CTX* const native = context->native_handle();
    if (!verification ||
        X509_STORE_CTX_init(verification.get(), SSL_CTX_get_cert_store(native), shown_->certificate.get(),
                            shown_->chain.get()) != 1 ||
        X509_STORE_CTX_set_default(verification.get(), "ssl_client") != 1 ||
        X509_VERIFY_PARAM_set1(X509_STORE_CTX_get0_param(verification.get()), SSL_CTX_get0_param(native)) !=
            1) {
        return make_error(Errc::Internal, "OpenSSL, judging a certificate again: " + openssl_reasons());
    }
    if (X509_verify_cert(verification.get()) == 1) return {};
    const int verdict = X509_STORE_CTX_get_error(verification.get());
    openssl_reasons();
    return make_error(Errc::PeerUntrusted, "the peer's certificate is refused: " +
                                               std::string(X509_verify_cert_error_string(verdict)));
}

}  // namespace fedllm::net
