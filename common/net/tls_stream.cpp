#include "common/net/tls_stream.hpp"

#include <openssl/ssl.h>

#include <array>

#include "common/net/openssl.hpp"
#include "common/protocol/frame.hpp"

namespace fedllm::net {
namespace {

using boost::system::error_code;
using Handshake = asio::ssl::stream_base::handshake_type;

constexpr Duration kLinger{500};

std::string describe_remote(const asio::ip::tcp::socket& socket) {
    error_code error;
    const auto endpoint = socket.remote_endpoint(error);
    if (error) return "unknown";
    const std::string address = endpoint.address().to_string();
    return (endpoint.address().is_v6() ? "[" + address + "]" : address) + ":" +
           std::to_string(endpoint.port());
}

bool is_openssl(const error_code& error) { return error.category() == asio::error::get_ssl_category(); }

std::string reason_of(const error_code& error) {
    const char* const reason = ERR_reason_error_string(static_cast<unsigned long>(error.value()));
    return reason != nullptr ? reason : error.message();
}

// Alerts that arrived from the peer have reasons from 1000 on (SSL_AD_REASON_OFFSET).
bool is_peer_alert(const error_code& error) {
    return ERR_GET_REASON(static_cast<unsigned long>(error.value())) >= SSL_AD_REASON_OFFSET;
}

}  // namespace

TlsStream::TlsStream(asio::ip::tcp::socket socket, TlsContext context)
    : context_(std::move(context)), stream_(std::move(socket), *context_) {
    error_code ignored;  // a socket that is already dead says so at the handshake
    stream_.next_layer().set_option(asio::ip::tcp::no_delay(true), ignored);
    stream_.next_layer().set_option(asio::socket_base::keep_alive(true), ignored);
    remote_ = describe_remote(stream_.next_layer());
}

awaitable<Result<PeerIdentity>> TlsStream::handshake(Handshake type) {
    const auto [ec] = co_await stream_.async_handshake(type, kNoThrow);
    if (ec) {
        Error error = explain_handshake(ec);
        if (error.code == Errc::PeerUntrusted) co_await linger();
        co_return error;
    }
    auto identity = peer_identity();
    if (!identity) co_return identity.error();
    const bool right_side = (identity->role == Role::Server) == (type == Handshake::client);
    if (!right_side) {
        co_return make_error(
            Errc::PeerUntrusted,
            "the peer's certificate is for the role " + std::string(name(identity->role)) +
                (type == Handshake::client ? ", expected server" : ", expected client or operator"));
    }
    co_return identity;
}

Result<PeerIdentity> TlsStream::peer_identity() {
    const unsigned char* chosen = nullptr;
    unsigned chosen_size = 0;
    SSL_get0_alpn_selected(native(), &chosen, &chosen_size);
    if (std::string_view(reinterpret_cast<const char*>(chosen), chosen_size) != protocol::kAlpn) {
        return make_error(Errc::PeerUntrusted,
                          "the peer does not speak " + std::string(protocol::kAlpn) + " (ALPN)");
    }
    const Certificate certificate(SSL_get1_peer_certificate(native()));
    if (!certificate) return make_error(Errc::PeerUntrusted, "the peer has no certificate");
    return identity_of(*certificate);
}

Error TlsStream::explain_handshake(const error_code& ec) {
    if (!is_openssl(ec)) {
        Error error = explain(ec);
        if (error.code == Errc::PeerClosed)
            error.message = "the peer closed the connection during the TLS handshake";
        return error;
    }
    const long verdict = SSL_get_verify_result(native());
    if (!is_peer_alert(ec) && verdict != X509_V_OK) {
        return make_error(Errc::PeerUntrusted, "the peer's certificate is refused: " +
                                                   std::string(X509_verify_cert_error_string(verdict)));
    }
    if (is_peer_alert(ec)) return explain(ec);
    return make_error(Errc::PeerUntrusted, "TLS handshake: " + reason_of(ec));
}

Error TlsStream::explain(const error_code& ec) const {
    if (closed_ || ec == asio::error::operation_aborted)
        return make_error(Errc::Cancelled, "the stream was closed");
    if (!is_openssl(ec))
        return make_error(Errc::PeerClosed, "connection to " + remote_ + ": " + ec.message());
    if (is_peer_alert(ec)) {
        return make_error(Errc::PeerUntrusted,
                          "the peer refused us: " + reason_of(ec) +
                              " (is our certificate of the right authority, in date, and not "
                              "revoked?)");
    }
    return make_error(Errc::Malformed, "TLS: " + reason_of(ec));
}

// After a refusal: a socket closed with unread bytes is reset, and the reset would destroy the alert that
// tells the peer why. So take what the peer still sends, for a moment.
awaitable<void> TlsStream::linger() {
    error_code ignored;
    stream_.next_layer().shutdown(asio::socket_base::shutdown_send, ignored);
    (void)co_await within(kLinger, read_scrap());
}

awaitable<Result<void>> TlsStream::read_scrap() {
    std::array<std::byte, 4096> scrap;
    for (std::size_t total = 0; total < 65536;) {
        const auto [ec, count] =
            co_await stream_.next_layer().async_read_some(asio::buffer(scrap.data(), scrap.size()), kNoThrow);
        if (ec) break;
        total += count;
    }
    co_return Result<void>{};
}

awaitable<Result<std::size_t>> TlsStream::read_some(std::span<std::byte> buffer) {
    const auto [ec, count] =
        co_await stream_.async_read_some(asio::buffer(buffer.data(), buffer.size()), kNoThrow);
    if (ec == asio::error::eof || ec == asio::ssl::error::stream_truncated) {
        co_return make_error(Errc::PeerClosed, "the peer closed the connection");
    }
    if (ec) co_return explain(ec);
    co_return count;
}

awaitable<Result<std::size_t>> TlsStream::write_some(std::span<const std::byte> bytes) {
    const auto [ec, count] =
        co_await stream_.async_write_some(asio::buffer(bytes.data(), bytes.size()), kNoThrow);
    if (ec) co_return explain(ec);
    co_return count;
}

// Sends close_notify and does not wait for the peer's: frames say themselves whether they are whole.
awaitable<Result<void>> TlsStream::shutdown() {
    const auto [ec] = co_await stream_.async_shutdown(kNoThrow);
    if (ec && ec != asio::error::eof && ec != asio::ssl::error::stream_truncated) co_return explain(ec);
    co_return Result<void>{};
}

WireBytes TlsStream::wire_bytes() const {
    if (closed_) return wire_at_close_;
    return wire_bytes_of(const_cast<TlsStream*>(this)->stream_.next_layer().native_handle());
}

void TlsStream::close() {
    if (!closed_) wire_at_close_ = wire_bytes();
    closed_ = true;
    error_code ignored;
    stream_.next_layer().close(ignored);
}

}  // namespace fedllm::net
