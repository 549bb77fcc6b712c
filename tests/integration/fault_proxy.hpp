// A line that fails as lines do: a TCP relay between a daemon and its server, on a thread of its own.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "common/base/clock.hpp"
#include "common/base/philox.hpp"
#include "common/net/task_group.hpp"

namespace fedllm::test {

struct LineFaults {
    std::uint64_t bytes_per_second = 0;  // each way of each connection; 0: no throttle
    Duration delay{0};                   // each way
    Duration jitter{0};                  // added to it, at random; bytes stay in order
    std::uint64_t reset_every = 0;  // bytes of one connection, both ways together, until both ends are reset
    // The first connection to carry so many bytes loses one end without a word to the other: that one sees a
    // connection that is open and silent for ever.
    std::uint64_t half_open_after = 0;
    enum class Survivor { Server, Client } survivor = Survivor::Server;
};

// Lifecycle: relays from construction to destruction. Concurrency: all calls from one thread, the tester's.
class FaultProxy {
public:
    FaultProxy(std::uint16_t server_port, const LineFaults& faults);
    ~FaultProxy();
    FaultProxy(const FaultProxy&) = delete;
    FaultProxy& operator=(const FaultProxy&) = delete;

    std::uint16_t port() const { return port_; }
    // From now on nothing moves, either way, on old and new connections; nobody is told.
    void black_hole(Duration time);

    std::uint64_t taken_from_clients() const { return from_clients_; }
    std::uint64_t taken_from_server() const { return from_server_; }
    int connections() const { return connections_; }
    int cuts() const { return cuts_; }  // resets and half-open ends

private:
    struct Link;
    struct Pipe;

    net::awaitable<Result<void>> accept();
    net::awaitable<Result<void>> relay(net::asio::ip::tcp::socket client);
    net::awaitable<Result<void>> read(std::shared_ptr<Link> link, Pipe& pipe);
    net::awaitable<Result<void>> write(std::shared_ptr<Link> link, Pipe& pipe);
    bool cut(Link& link, std::size_t bytes);

    LineFaults faults_;
    std::uint16_t server_port_;
    net::asio::io_context io_{1};
    net::asio::ip::tcp::acceptor acceptor_{io_};
    std::uint16_t port_ = 0;
    net::TaskGroup tasks_{io_.get_executor()};
    Rng rng_{7, "fault proxy"};
    std::chrono::steady_clock::time_point dark_until_{};
    bool half_opened_ = false;
    std::atomic<std::uint64_t> from_clients_ = 0, from_server_ = 0;
    std::atomic<int> connections_ = 0, cuts_ = 0;
    std::thread thread_;
};

}  // namespace fedllm::test
