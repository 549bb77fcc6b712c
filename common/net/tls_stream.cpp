#include "common/net/tls_stream.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <cstring>

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

constexpr std::size_t kRecordBytes = SSL3_RT_MAX_PLAIN_LENGTH;
// From here on it pays to let a helper do it, and to read several records with one call of the kernel.
constexpr std::size_t kLargeBytes = std::size_t{64} << 10;

std::string reason_of(unsigned long error) {
    const char* const reason = ERR_reason_error_string(error);
    return reason != nullptr ? reason : "error " + std::to_string(error);
}

// Alerts that arrived from the peer have reasons from 1000 on (SSL_AD_REASON_OFFSET).
bool is_peer_alert(unsigned long error) { return ERR_GET_REASON(error) >= SSL_AD_REASON_OFFSET; }

}  // namespace

TlsStream::TlsStream(asio::ip::tcp::socket socket, TlsContext context, asio::any_io_executor helpers)
    : context_(std::move(context)),
      socket_(std::move(socket)),
      ssl_(SSL_new(context_->native_handle())),
      helpers_(std::move(helpers)),
      returned_(socket_.get_executor()) {
    FEDLLM_CHECK(ssl_ != nullptr, "OpenSSL SSL");  // fails without memory only
    error_code ignored;                            // a socket that is already dead says so at the handshake
    socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
    socket_.set_option(asio::socket_base::keep_alive(true), ignored);
    socket_.native_non_blocking(true, ignored);
    remote_ = describe_remote(socket_);
    end_.socket = socket_.native_handle();
    BIO* const bio = make_socket_bio(end_).release();
    SSL_set_bio(native(), bio, bio);  // takes it over
    SSL_set_mode(native(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                               SSL_MODE_RELEASE_BUFFERS);
    SSL_set_read_ahead(native(), 1);  // else two calls of the kernel for each record
}

TlsStream::Outcome TlsStream::outcome_of(int returned) {
    Outcome outcome{.wait = {}, .kind = SSL_get_error(native(), returned), .error = ERR_get_error()};
    if (outcome.kind == SSL_ERROR_WANT_READ) outcome.wait = asio::socket_base::wait_read;
    if (outcome.kind == SSL_ERROR_WANT_WRITE) outcome.wait = asio::socket_base::wait_write;
    return outcome;
}

awaitable<Result<void>> TlsStream::wait(asio::socket_base::wait_type what) {
    const auto [cancelled] = co_await socket_.async_wait(what, kNoThrow);
    if (cancelled || closed_) co_return make_error(Errc::Cancelled, "the stream was closed");
    co_return Result<void>{};
}

awaitable<Result<PeerIdentity>> TlsStream::handshake(Handshake type) {
    if (type == Handshake::client) {
        SSL_set_connect_state(native());
    } else {
        SSL_set_accept_state(native());
    }
    for (;;) {
        ERR_clear_error();
        const int returned = SSL_do_handshake(native());
        if (returned == 1) break;
        const Outcome outcome = outcome_of(returned);
        if (outcome.wait) {
            FEDLLM_CO_TRY_VOID(co_await wait(*outcome.wait));
            continue;
        }
        Error error = explain_handshake(outcome);
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

Error TlsStream::explain_handshake(const Outcome& outcome) {
    const bool ours = outcome.kind == SSL_ERROR_SSL && !is_peer_alert(outcome.error);
    if (const long verdict = SSL_get_verify_result(native()); ours && verdict != X509_V_OK) {
        return make_error(Errc::PeerUntrusted, "the peer's certificate is refused: " +
                                                   std::string(X509_verify_cert_error_string(verdict)));
    }
    // A peer that goes away in the middle is no reason for distrust, though OpenSSL makes an error of it.
    if (ours && !end_.ended && end_.failed == 0) {
        return make_error(Errc::PeerUntrusted, "TLS handshake: " + reason_of(outcome.error));
    }
    Error error = explain(outcome);
    if (error.code == Errc::PeerClosed)
        error.message = "the peer closed the connection during the TLS handshake";
    return error;
}

Error TlsStream::explain(const Outcome& outcome) const {
    if (closed_) return make_error(Errc::Cancelled, "the stream was closed");
    if (end_.failed != 0) {
        return make_error(Errc::PeerClosed, "connection to " + remote_ + ": " + std::strerror(end_.failed));
    }
    // A peer that vanishes without close_notify has closed too: frames say themselves whether they are whole.
    if (end_.ended || outcome.kind != SSL_ERROR_SSL) {
        return make_error(Errc::PeerClosed, "the peer closed the connection");
    }
    if (is_peer_alert(outcome.error)) {
        return make_error(Errc::PeerUntrusted,
                          "the peer refused us: " + reason_of(outcome.error) +
                              " (is our certificate of the right authority, in date, and not "
                              "revoked?)");
    }
    return make_error(Errc::Malformed, "TLS: " + reason_of(outcome.error));
}

// After a refusal: a socket closed with unread bytes is reset, and the reset would destroy the alert that
// tells the peer why. So take what the peer still sends, for a moment.
awaitable<void> TlsStream::linger() {
    error_code ignored;
    socket_.shutdown(asio::socket_base::shutdown_send, ignored);
    (void)co_await within(kLinger, read_scrap());
}

awaitable<Result<void>> TlsStream::read_scrap() {
    std::array<std::byte, 4096> scrap;
    for (std::size_t total = 0; total < 65536;) {
        const auto [ec, count] =
            co_await socket_.async_read_some(asio::buffer(scrap.data(), scrap.size()), kNoThrow);
        if (ec) break;
        total += count;
    }
    co_return Result<void>{};
}

awaitable<void> TlsStream::until_returned() {
    while (lent_) (void)co_await returned_.async_wait(kNoThrow);
}

template <class Work>
awaitable<TlsStream::Moved> TlsStream::helped(Work work) {
    struct Loan {
        TlsStream& stream;
        ~Loan() {
            stream.lent_ = false;
            stream.returned_.cancel();
            if (stream.closed_) stream.close();
        }
    };
    lent_ = true;
    const Loan loan{*this};
    co_return co_await offload(helpers_, work);
}

// All that is there and fits.
TlsStream::Moved TlsStream::read_now(std::span<std::byte> buffer, std::size_t ahead) {
    SSL_set_default_read_buffer_len(native(), ahead);
    std::size_t total = 0;
    while (total < buffer.size()) {
        std::size_t count = 0;
        ERR_clear_error();
        const int returned = SSL_read_ex(native(), buffer.data() + total, buffer.size() - total, &count);
        if (returned != 1) return {total, outcome_of(returned)};
        total += count;
    }
    return {total, {}};
}

awaitable<Result<std::size_t>> TlsStream::read_some(std::span<std::byte> buffer) {
    for (;;) {
        if (lent_) co_await until_returned();
        if (closed_) co_return make_error(Errc::Cancelled, "the stream was closed");
        if (read_failed_) co_return *read_failed_;
        error_code ignored;
        const std::size_t ahead = socket_.available(ignored) >= kLargeBytes ? kLargeBytes : 0;
        const auto read = [&] { return read_now(buffer, ahead); };
        const bool worth_help = helpers_ && ahead > 0 && buffer.size() >= kLargeBytes;
        const auto [count, outcome] = worth_help ? co_await helped(read) : read();
        if (outcome.kind != SSL_ERROR_NONE && !outcome.wait) read_failed_ = explain(outcome);
        if (count > 0) {
            co_await asio::post(executor(),
                                asio::use_awaitable);  // the others' turn, however fast the peer is
            co_return count;
        }
        if (outcome.wait) FEDLLM_CO_TRY_VOID(co_await wait(*outcome.wait));
    }
}

// As much as the kernel takes, record by record.
TlsStream::Moved TlsStream::write_now(std::span<const std::byte> bytes) {
    const Gathering gathering(end_);
    std::size_t total = 0;
    while (total < bytes.size() && end_.waiting.empty()) {
        const std::size_t record = std::min(kRecordBytes, bytes.size() - total);
        std::size_t count = 0;
        ERR_clear_error();
        const int returned = SSL_write_ex(native(), bytes.data() + total, record, &count);
        if (returned != 1) return {total, outcome_of(returned)};
        total += count;
    }
    return {total, {}};
}

// Returns when all that was written is with the kernel.
awaitable<Result<std::size_t>> TlsStream::write_some(std::span<const std::byte> bytes) {
    for (std::size_t written = 0;;) {
        if (lent_) co_await until_returned();
        if (closed_) co_return make_error(Errc::Cancelled, "the stream was closed");
        if (!flush(end_)) {
            if (end_.failed != 0) co_return explain({.wait = {}, .kind = SSL_ERROR_SYSCALL});
            FEDLLM_CO_TRY_VOID(co_await wait(asio::socket_base::wait_write));
        } else if (written > 0) {
            co_await asio::post(executor(), asio::use_awaitable);
            co_return written;
        } else {
            const auto write = [&] { return write_now(bytes); };
            const bool worth_help = helpers_ && bytes.size() >= kLargeBytes;
            const auto [count, outcome] = worth_help ? co_await helped(write) : write();
            if (outcome.kind != SSL_ERROR_NONE && !outcome.wait) co_return explain(outcome);
            written = count;
            if (outcome.wait && count == 0) FEDLLM_CO_TRY_VOID(co_await wait(*outcome.wait));
        }
    }
}

// Says close_notify, and waits for the peer's or for its end.
awaitable<Result<void>> TlsStream::shutdown() {
    for (bool said = false;;) {
        if (lent_) co_await until_returned();
        if (closed_) co_return make_error(Errc::Cancelled, "the stream was closed");
        ERR_clear_error();
        const int returned = SSL_shutdown(native());
        if (returned == 1) co_return Result<void>{};
        if (returned == 0 && !std::exchange(said, true)) continue;  // the next call waits
        const Outcome outcome = outcome_of(returned);
        if (!outcome.wait) {
            const Error error = explain(outcome);
            if (error.code == Errc::PeerClosed) co_return Result<void>{};
            co_return error;
        }
        FEDLLM_CO_TRY_VOID(co_await wait(*outcome.wait));
    }
}

WireBytes TlsStream::wire_bytes() const {
    if (closed_) return wire_at_close_;
    return wire_bytes_of(end_.socket);
}

void TlsStream::close() {
    if (!closed_) wire_at_close_ = wire_bytes();
    closed_ = true;
    error_code ignored;
    if (!lent_) return (void)socket_.close(ignored);
    // The descriptor stays until the helper is done: its number could become another connection's. Both ends
    // of the socket are shut, so it sends nothing more, and reads what has come already and fits at most.
    ::shutdown(end_.socket, SHUT_RDWR);
    socket_.cancel(ignored);
}

}  // namespace fedllm::net
