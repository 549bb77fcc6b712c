#include "common/net/connect.hpp"

#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/connect.hpp>

#include "common/net/openssl.hpp"
#include "common/net/tls_stream.hpp"

namespace fedllm::net {
namespace {

using asio::ip::tcp;
using boost::system::error_code;
using Handshake = asio::ssl::stream_base::handshake_type;

// Ours is about 300 bytes; with keys of after-quantum kinds it would be below 2,000.
constexpr std::size_t kHelloBytesMax = 4096;

bool is_address(const std::string& text) {
    error_code error;
    asio::ip::make_address(text, error);
    return !error;
}

// Tells OpenSSL whose certificate to expect, and the server by which name we came (SNI takes names only).
Result<void> expect_server(SSL& ssl, const std::string& server_name) {
    X509_VERIFY_PARAM* const param = SSL_get0_param(&ssl);
    bool ok = false;
    if (is_address(server_name)) {
        ok = X509_VERIFY_PARAM_set1_ip_asc(param, server_name.c_str()) == 1;
    } else {
        X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        ok = X509_VERIFY_PARAM_set1_host(param, server_name.c_str(), server_name.size()) == 1 &&
             SSL_set_tlsext_host_name(&ssl, server_name.c_str()) == 1;
    }
    if (ok) return {};
    openssl_reasons();
    return make_error(Errc::InvalidArgument, "'" + server_name + "' cannot be a server's name");
}

awaitable<Result<Connected>> connect_now(std::string host, std::uint16_t port, TlsContext context,
                                         std::string server_name) {
    const auto executor = co_await asio::this_coro::executor;
    const std::string where = host + ":" + std::to_string(port);
    tcp::resolver resolver(executor);
    const auto [resolve_error, endpoints] =
        co_await resolver.async_resolve(host, std::to_string(port), kNoThrow);
    if (resolve_error) {
        co_return make_error(Errc::NotFound, "no address for " + where + ": " + resolve_error.message());
    }
    tcp::socket socket(executor);
    const auto [connect_error, endpoint] = co_await asio::async_connect(socket, endpoints, kNoThrow);
    if (connect_error) {
        co_return make_error(Errc::PeerClosed, "cannot connect to " + where + ": " + connect_error.message());
    }
    auto stream = std::make_unique<TlsStream>(std::move(socket), std::move(context));
    FEDLLM_CO_TRY_VOID(expect_server(*stream->native(), server_name));
    auto peer = co_await stream->handshake(Handshake::client);
    if (!peer) co_return with_context(peer.error(), "server " + where);
    PeerProof proof(stream->native());
    co_return Connected{std::move(stream), std::move(*peer), std::move(proof)};
}

// The descriptor itself moves: an executor watches its own sockets only.
Result<tcp::socket> hand_to(asio::any_io_executor executor, tcp::socket& socket) {
    error_code error;
    const auto protocol = socket.local_endpoint(error).protocol();
    tcp::socket handed(std::move(executor));
    const int descriptor = error ? -1 : socket.release(error);
    if (!error) handed.assign(protocol, descriptor, error);
    if (!error) return handed;
    if (descriptor >= 0) ::close(descriptor);
    return make_error(Errc::PeerClosed, "the connection ended: " + error.message());
}

}  // namespace

awaitable<Result<Connected>> connect_tls(std::string host, std::uint16_t port, TlsContext context,
                                         std::string server_name, Duration deadline) {
    const std::string where = host + ":" + std::to_string(port);
    auto connected = co_await within(
        deadline, connect_now(std::move(host), port, std::move(context), std::move(server_name)));
    if (!connected && connected.error().code == Errc::Timeout) {
        co_return with_context(connected.error(), "connecting to " + where);
    }
    co_return connected;
}

void hang_up(tcp::socket& socket) {
    error_code ignored;
    socket.set_option(asio::socket_base::linger(true, 0), ignored);
    socket.close(ignored);
}

Accepting::Accepting(tcp::socket socket, Duration deadline)
    : socket_(std::move(socket)), deadline_(deadline), watchdog_(socket_.get_executor(), [this] {
          late_ = true;
          close();
      }) {
    watchdog_.start(deadline);
}

Accepting::~Accepting() { hang_up(socket_); }

void Accepting::close() {
    closed_ = true;
    hang_up(socket_);
    if (stream_) stream_->close();
}

Error Accepting::ended_by(const Error& error) const {
    if (!late_) return error;
    return make_error(Errc::Timeout,
                      "TLS handshake: not done in " + std::to_string(deadline_.count()) + " ms");
}

awaitable<Result<void>> Accepting::hello() {
    const Result<void> heard = co_await first_record();
    if (!heard) co_return ended_by(heard.error());
    co_return heard;
}

awaitable<Result<void>> Accepting::first_record() {
    std::array<unsigned char, SSL3_RT_HEADER_LENGTH> header{};  // type, version, length in two bytes
    FEDLLM_CO_TRY_VOID(co_await lie_ready(header.size()));
    const ssize_t count =
        ::recv(socket_.native_handle(), header.data(), header.size(), MSG_PEEK | MSG_DONTWAIT);
    if (count != static_cast<ssize_t>(header.size()))
        co_return make_error(Errc::PeerClosed, "the peer has gone");
    const std::size_t length = header[3] * std::size_t{256} + header[4];
    // What is no TLS, or longer than any ClientHello, is OpenSSL's to judge.
    if (header[0] == SSL3_RT_HANDSHAKE) {
        FEDLLM_CO_TRY_VOID(co_await lie_ready(std::min(header.size() + length, kHelloBytesMax)));
    }
    error_code error;
    socket_.set_option(asio::socket_base::receive_low_watermark(1), error);
    if (error) co_return make_error(Errc::PeerClosed, error.message());
    co_return Result<void>{};
}

awaitable<Result<void>> Accepting::lie_ready(std::size_t bytes) {
    error_code error;
    socket_.set_option(asio::socket_base::receive_low_watermark(static_cast<int>(bytes)), error);
    if (error) co_return make_error(Errc::PeerClosed, error.message());
    const auto [cancelled] = co_await socket_.async_wait(asio::socket_base::wait_read, kNoThrow);
    if (cancelled || closed_) co_return make_error(Errc::Cancelled, "the stream was closed");
    // The kernel wakes us for less when nothing more will come, or when it has no memory to wait for it.
    if (socket_.available(error) < bytes) {
        co_return make_error(Errc::PeerClosed, "the peer closed the connection during the TLS handshake");
    }
    co_return Result<void>{};
}

awaitable<Result<Connected>> Accepting::finish(asio::any_io_executor executor, TlsContext context,
                                               asio::any_io_executor helpers) {
    if (closed_) co_return ended_by(make_error(Errc::Cancelled, "the stream was closed"));
    FEDLLM_CO_TRY(tcp::socket socket, hand_to(std::move(executor), socket_));
    stream_ = std::make_unique<TlsStream>(std::move(socket), std::move(context), std::move(helpers));
    auto peer = co_await stream_->handshake(Handshake::server);
    watchdog_.stop();
    if (!peer) co_return ended_by(with_context(peer.error(), stream_->remote()));
    PeerProof proof(stream_->native());
    co_return Connected{std::move(stream_), std::move(*peer), std::move(proof)};
}

awaitable<Result<Connected>> accept_tls(tcp::socket socket, TlsContext context, Duration deadline,
                                        asio::any_io_executor helpers) {
    const auto executor = socket.get_executor();
    Accepting accepting(std::move(socket), deadline);
    FEDLLM_CO_TRY_VOID(co_await accepting.hello());
    co_return co_await accepting.finish(executor, std::move(context), std::move(helpers));
}

Result<tcp::acceptor> listen_tcp(asio::any_io_executor executor, const std::string& address,
                                 std::uint16_t port) {
    const std::string where = address + ":" + std::to_string(port);
    error_code error;
    const auto ip = asio::ip::make_address(address, error);
    if (error) return make_error(Errc::InvalidConfig, "'" + address + "' is not an IP address to listen on");
    const tcp::endpoint endpoint(ip, port);
    tcp::acceptor acceptor(executor);
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
    if (error) return make_error(Errc::IoFailed, "cannot listen on " + where + ": " + error.message());
    return acceptor;
}

}  // namespace fedllm::net
