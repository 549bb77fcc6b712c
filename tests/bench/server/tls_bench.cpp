// What the channel costs beside TLS itself: the same bytes through net::Channel and through a bare
// asio::ssl::stream, in turns in one run. tls_bench [MEGABYTES [ROUNDS]]. Loopback, one thread for each side.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "common/net/channel.hpp"
#include "common/net/connect.hpp"
#include "tests/common/net/support.hpp"
#include "tools/bench/bare_tls.hpp"
#include "tools/bench/two_sides.hpp"

namespace fedllm::bench {
namespace {

using net::awaitable;
using namespace tools::bench;
using Channels = std::vector<std::unique_ptr<net::Channel>>;

const std::vector<std::byte>& payload() {
    static const std::vector<std::byte> bytes(kPieceBytes, std::byte{42});
    return bytes;
}

awaitable<Result<void>> send(net::Channel& channel, std::uint64_t bytes) {
    for (std::uint64_t done = 0; done < bytes; done += kPieceBytes) {
        FEDLLM_CO_TRY_VOID(co_await channel.send_chunk(done, payload()));
    }
    co_return Result<void>{};
}

awaitable<Result<void>> receive(net::Channel& channel, std::uint64_t bytes, bool echo) {
    for (std::uint64_t done = 0; done < bytes;) {
        FEDLLM_CO_TRY(const auto frame, co_await channel.receive(std::chrono::seconds(30)));
        if (echo) FEDLLM_CO_TRY_VOID(co_await channel.send_chunk(frame.offset, frame.bytes));
        done += frame.bytes.size();
    }
    co_return Result<void>{};
}

awaitable<Result<void>> serve(net::Channel& channel, Traffic traffic) {
    FEDLLM_CO_TRY_VOID(co_await send(channel, traffic.bytes_down));
    co_return co_await receive(channel, traffic.bytes_up, traffic.echo);
}

awaitable<Result<void>> visit(net::Channel& channel, Traffic traffic) {
    FEDLLM_CO_TRY_VOID(co_await receive(channel, traffic.bytes_down, false));
    co_return co_await send(channel, traffic.bytes_up);
}

void keep(net::Connected connected, Channels& to) {
    const protocol::Limits limits;
    to.push_back(std::make_unique<net::Channel>(std::move(connected.stream), limits));
    to.back()->set_frame_limits(limits.frame);
}

awaitable<Result<void>> accept(net::asio::ip::tcp::acceptor& acceptor, net::TlsContext context,
                               Channels& to) {
    auto [error, socket] = co_await acceptor.async_accept(net::kNoThrow);
    if (error) co_return make_error(Errc::IoFailed, error.message());
    FEDLLM_CO_TRY(auto connected,
                  co_await net::accept_tls(std::move(socket), std::move(context), std::chrono::seconds(10)));
    keep(std::move(connected), to);
    co_return Result<void>{};
}

awaitable<Result<void>> connect(std::uint16_t port, net::TlsContext context, Channels& to) {
    FEDLLM_CO_TRY(auto connected, co_await net::connect_tls("127.0.0.1", port, std::move(context),
                                                            "127.0.0.1", std::chrono::seconds(10)));
    keep(std::move(connected), to);
    co_return Result<void>{};
}

Result<Cost> time_channels(const net::TlsContext& server, const net::TlsContext& client,
                           const Traffic& traffic) {
    TwoSides sides;
    FEDLLM_TRY(auto acceptor, net::listen_tcp(sides.server.io.get_executor(), "127.0.0.1", 0));
    Channels servers, clients;
    for (std::size_t i = 0; i < traffic.connections; ++i) {
        sides.server.add(accept(acceptor, server, servers));
        sides.client.add(connect(acceptor.local_endpoint().port(), client, clients));
        FEDLLM_TRY_VOID(sides.run());
    }
    for (const auto& channel : servers) sides.server.add(serve(*channel, traffic));
    for (const auto& channel : clients) {
        sides.client.add(visit(*channel, traffic));
        if (traffic.echo) sides.client.add(receive(*channel, traffic.bytes_up, false));
    }
    const Stopwatch watch;
    FEDLLM_TRY_VOID(sides.run());
    return watch.cost();
}

// The better of several turns each: what other processes take is in both.
struct Best {
    double seconds = 1e9;
    double core_seconds = 1e9;
    void take(const Cost& cost) {
        seconds = std::min(seconds, cost.seconds);
        core_seconds = std::min(core_seconds, cost.core_seconds);
    }
};

Result<void> compare(const char* name, const net::TlsContext& server, const net::TlsContext& client,
                     const Traffic& traffic, int rounds) {
    Best ours, bare;
    for (int round = 0; round < rounds; ++round) {
        FEDLLM_TRY(const Cost bare_cost, time_bare_tls(server, client, traffic));
        FEDLLM_TRY(const Cost our_cost, time_channels(server, client, traffic));
        bare.take(bare_cost);
        ours.take(our_cost);
    }
    const double gigabytes =
        1e-9 * static_cast<double>(traffic.connections * (traffic.bytes_down + traffic.bytes_up));
    std::printf(
        "%-22s bare %5.2f GB/s, %.2f core s/GB;  channel %5.2f GB/s, %.2f core s/GB;  of_bare %.2f (by core "
        "time %.2f)\n",
        name, gigabytes / bare.seconds, bare.core_seconds / gigabytes, gigabytes / ours.seconds,
        ours.core_seconds / gigabytes, bare.seconds / ours.seconds, bare.core_seconds / ours.core_seconds);
    std::fflush(stdout);
    return {};
}

Result<void> run(std::uint64_t bytes, int rounds) {
    net::TemporaryFolder folder;
    net::TestAuthority authority(folder.path());
    FEDLLM_TRY(const auto server, net::make_server_context(authority.issue(net::Role::Server, "server")));
    FEDLLM_TRY(const auto client, net::make_client_context(authority.issue(net::Role::Client, "site")));
    for (const std::size_t connections : {1, 4}) {
        const std::uint64_t each = bytes / connections / kPieceBytes * kPieceBytes;
        const std::string count = std::to_string(connections) + " x ";
        const auto name = [&](const char* shape) { return count + shape; };
        FEDLLM_TRY_VOID(compare(name("echo").c_str(), server, client,
                                {.connections = connections, .bytes_up = each, .echo = true}, rounds));
        FEDLLM_TRY_VOID(compare(name("up").c_str(), server, client,
                                {.connections = connections, .bytes_up = each}, rounds));
        FEDLLM_TRY_VOID(compare(name("down").c_str(), server, client,
                                {.connections = connections, .bytes_down = each}, rounds));
    }
    return {};
}

}  // namespace
}  // namespace fedllm::bench

int main(int argc, char** argv) {
    const std::uint64_t bytes = (argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 512) * 1'000'000;
    const int rounds = argc > 2 ? std::atoi(argv[2]) : 5;
    const auto done = fedllm::bench::run(bytes, rounds);
    if (!done) std::fprintf(stderr, "tls_bench: %s\n", to_string(done.error()).c_str());
    return done ? 0 : 1;
}
