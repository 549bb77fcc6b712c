// A simulated network: connections between clients and the one server, with everything that can happen to
// them.
//
// A connection is like one of TCP: bytes arrive in order, once and whole, or not at all. So loss shows as
// delay; what is reordered or comes twice is at the level of whole connections: one that the client gave up
// long ago still delivers bytes while a newer one speaks. What ends can hear of the end of a connection: both
// (a reset), one (half open), or none (silence); only deadlines help against the last two.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/base/ids.hpp"
#include "common/base/philox.hpp"
#include "common/net/stream.hpp"
#include "tools/world/trace.hpp"

namespace fedllm::tools::world {

using namespace std::chrono_literals;
using net::TimePoint;
using Micros = std::chrono::microseconds;

// What a network is like. Probabilities are per segment, or per attempt to connect.
struct Weather {
    Duration delay = 1ms;   // one way
    Duration jitter = 0ms;  // on top, uniform
    double bytes_per_second = 1e9;
    double loss = 0;
    double refused = 0;
    double reset = 0;
    double half_open = 0;
    double silence = 0;
    std::size_t window_bytes = std::size_t{64} << 10;  // under way in one direction
    std::size_t segment_bytes = 1460;
};

enum class Side { Client, Server };

// Sees all bytes as they are written, before anything happens to them.
class Tap {
public:
    virtual ~Tap() = default;
    virtual void on_bytes(std::uint64_t connection, const ClientId& client, Side from,
                          std::span<const std::byte> bytes) = 0;
    virtual void on_end(std::uint64_t connection) = 0;
};

class Connection;

// Lifecycle: outlives all processes. Concurrency: the world's one thread.
class Network {
public:
    using Accept = std::function<void(std::unique_ptr<net::Stream>, ClientId)>;

    Network(net::VirtualTime& time, Trace& trace, Tap& tap, Rng rng);
    ~Network();

    void set_weather(const Weather& weather) { weather_ = weather; }
    const Weather& weather() const { return weather_; }

    void listen(net::asio::any_io_executor executor, Accept accept);
    void stop_listening() { accept_ = {}; }
    net::awaitable<Result<std::unique_ptr<net::Stream>>> connect(ClientId client);

    // Nothing between this client and the server gets through until then; it arrives afterwards.
    void partition(const ClientId& client, TimePoint until);

    // A process is gone. Its system tells the peers, or nobody is left to do so. The streams of the process
    // are dead from now on: their destruction says nothing.
    enum class Farewell { Close, Reset, Nothing };
    void vanish(Side side, const std::optional<ClientId>& client, Farewell how);

private:
    friend class Connection;
    friend class SimulatedStream;

    void forget(std::uint64_t connection);
    bool chance(double probability);
    Micros draw_delay();
    TimePoint partitioned_until(const ClientId& client) const;
    bool newer_spoke(const ClientId& client, std::uint64_t connection) const;

    net::VirtualTime& time_;
    Trace& trace_;
    Tap& tap_;
    Rng rng_;
    Weather weather_;
    std::optional<net::asio::any_io_executor> listener_;
    Accept accept_;
    std::map<std::uint64_t, std::unique_ptr<Connection>> connections_;
    std::map<ClientId, std::set<std::uint64_t>> connections_of_;
    std::map<ClientId, std::uint64_t> newest_;  // connections from which the server has heard
    std::map<ClientId, TimePoint> partitions_;
    std::uint64_t last_connection_ = 0;
};

}  // namespace fedllm::tools::world
