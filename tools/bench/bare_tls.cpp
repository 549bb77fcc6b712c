#include "tools/bench/bare_tls.hpp"

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <memory>
#include <vector>

#include "common/net/connect.hpp"
#include "tools/bench/two_sides.hpp"

namespace fedllm::tools::bench {
namespace {

namespace asio = net::asio;
using asio::ip::tcp;
using net::awaitable;
using Bare = asio::ssl::stream<tcp::socket>;
using Handshake = asio::ssl::stream_base::handshake_type;
using Bares = std::vector<std::unique_ptr<Bare>>;

Error broke(const boost::system::error_code& error) {
    return make_error(Errc::PeerClosed, "the bare TLS connection broke: " + error.message());
}

std::size_t piece(std::uint64_t left) {
    return static_cast<std::size_t>(std::min<std::uint64_t>(left, kPieceBytes));
}

awaitable<Result<void>> write(Bare& to, std::uint64_t bytes) {
    const std::vector<std::byte> data(kPieceBytes, std::byte{42});
    for (std::uint64_t done = 0; done < bytes; done += piece(bytes - done)) {
        const auto [error, count] =
            co_await asio::async_write(to, asio::buffer(data.data(), piece(bytes - done)), net::kNoThrow);
        if (error) co_return broke(error);
    }
    co_return Result<void>{};
}

awaitable<Result<void>> read(Bare& from, std::uint64_t bytes, Bare* echo_to) {
    std::vector<std::byte> data(kPieceBytes);
    for (std::uint64_t done = 0; done < bytes;) {
        const auto buffer = asio::buffer(data.data(), piece(bytes - done));
        const auto [error, count] = co_await asio::async_read(from, buffer, net::kNoThrow);
        if (error) co_return broke(error);
        if (echo_to != nullptr) {
            const auto [echo_error, echoed] = co_await asio::async_write(*echo_to, buffer, net::kNoThrow);
            if (echo_error) co_return broke(echo_error);
        }
        done += count;
    }
    co_return Result<void>{};
}

awaitable<Result<void>> serve(Bare& stream, Traffic traffic) {
    FEDLLM_CO_TRY_VOID(co_await write(stream, traffic.bytes_down));
    co_return co_await read(stream, traffic.bytes_up, traffic.echo ? &stream : nullptr);
}

awaitable<Result<void>> visit(Bare& stream, Traffic traffic) {
    FEDLLM_CO_TRY_VOID(co_await read(stream, traffic.bytes_down, nullptr));
    co_return co_await write(stream, traffic.bytes_up);
}

awaitable<Result<void>> accept(tcp::acceptor& acceptor, net::TlsContext context, Bares& to) {
    auto [error, socket] = co_await acceptor.async_accept(net::kNoThrow);
    if (error) co_return broke(error);
    socket.set_option(tcp::no_delay(true));
    auto stream = std::make_unique<Bare>(std::move(socket), *context);
    const auto [refused] = co_await stream->async_handshake(Handshake::server, net::kNoThrow);
    if (refused) co_return broke(refused);
    to.push_back(std::move(stream));
    co_return Result<void>{};
}

awaitable<Result<void>> connect(tcp::endpoint endpoint, net::TlsContext context, Bares& to) {
    tcp::socket socket(co_await asio::this_coro::executor);
    const auto [error] = co_await socket.async_connect(endpoint, net::kNoThrow);
    if (error) co_return broke(error);
    socket.set_option(tcp::no_delay(true));
    auto stream = std::make_unique<Bare>(std::move(socket), *context);
    const auto [refused] = co_await stream->async_handshake(Handshake::client, net::kNoThrow);
    if (refused) co_return broke(refused);
    to.push_back(std::move(stream));
    co_return Result<void>{};
}

}  // namespace

Result<Cost> time_bare_tls(const net::TlsContext& server, const net::TlsContext& client,
                           const Traffic& traffic) {
    TwoSides sides;
    FEDLLM_TRY(auto acceptor, net::listen_tcp(sides.server.io.get_executor(), "127.0.0.1", 0));
    Bares servers, clients;
    for (std::size_t i = 0; i < traffic.connections; ++i) {
        sides.server.add(accept(acceptor, server, servers));
        sides.client.add(connect(acceptor.local_endpoint(), client, clients));
        FEDLLM_TRY_VOID(sides.run());
    }
    for (const auto& stream : servers) sides.server.add(serve(*stream, traffic));
    for (const auto& stream : clients) {
        sides.client.add(visit(*stream, traffic));
        if (traffic.echo) sides.client.add(read(*stream, traffic.bytes_up, nullptr));
    }
    const Stopwatch watch;
    FEDLLM_TRY_VOID(sides.run());
    return watch.cost();
}

}  // namespace fedllm::tools::bench
