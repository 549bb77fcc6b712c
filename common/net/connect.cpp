#include "common/net/connect.hpp"

#include <openssl/ssl.h>
#include <boost/asio/connect.hpp>

#include "common/net/openssl.hpp"
#include "common/net/tls_stream.hpp"

namespace fedllm::net {
namespace {

using asio::ip::tcp;
using boost::system::error_code;
using Handshake = asio::ssl::stream_base::handshake_type;

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

Accepting::Accepting(tcp::socket socket, TlsContext context)
    : stream_(std::make_unique<TlsStream>(std::move(socket), std::move(context))) {}

Accepting::~Accepting() = default;

void Accepting::close() {
    if (stream_) stream_->close();
}

awaitable<Result<PeerIdentity>> Accepting::shake_hands() {
    co_return co_await stream_->handshake(Handshake::server);
}

awaitable<Result<Connected>> Accepting::finish(Duration deadline) {
    auto peer = co_await within(deadline, shake_hands());
    if (!peer) {
        const bool late = peer.error().code == Errc::Timeout;
        co_return with_context(peer.error(), late ? "TLS handshake" : stream_->remote());
    }
    PeerProof proof(stream_->native());
    co_return Connected{std::move(stream_), std::move(*peer), std::move(proof)};
}

awaitable<Result<Connected>> accept_tls(tcp::socket socket, TlsContext context, Duration deadline) {
    Accepting accepting(std::move(socket), std::move(context));
    co_return co_await accepting.finish(deadline);
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
