// One connection of the simulated network, and its two ends as streams.
#pragma once

#include "tools/world/network.hpp"

namespace fedllm::tools::world {

class SimulatedStream;

// Bytes under way from one end to the other.
struct Segment {
    TimePoint arrives;
    std::vector<std::byte> bytes;
};

// One end, as its system sees the connection.
struct End {
    SimulatedStream* stream = nullptr;     // while its owner keeps it
    TimePoint hears_of_end = net::kNever;  // that the connection is gone
    bool mute = false;                     // what it sends reaches nobody
    // Outgoing.
    std::deque<Segment> under_way;
    std::size_t bytes_under_way = 0;
    TimePoint link_free{};
    TimePoint last_arrival{};
    std::optional<TimePoint> closing_arrives;  // after all bytes: nothing more comes
};

class Connection {
public:
    Connection(Network& network, std::uint64_t number, ClientId client);

    std::unique_ptr<SimulatedStream> attach(Side side, net::asio::any_io_executor executor);
    void detach(Side side);

    std::size_t send(Side from, std::span<const std::byte> bytes);
    std::size_t take(Side to, std::span<std::byte> into);  // what has arrived; 0: nothing
    void close(Side from);                                 // no more bytes from this side
    void vanish(Side side, Network::Farewell how);
    void hold_until(TimePoint time);

    End& end(Side side) { return ends_[static_cast<std::size_t>(side)]; }
    static Side other(Side side) { return side == Side::Client ? Side::Server : Side::Client; }
    bool abandoned() const { return ends_[0].stream == nullptr && ends_[1].stream == nullptr; }
    const ClientId& client() const { return client_; }
    std::uint64_t number() const { return number_; }
    TimePoint now() const;
    // When the next thing happens that a reader at `side` would notice.
    TimePoint next_news(Side side);

private:
    void break_now(Side from);
    void reset(TimePoint at);
    void wake(Side side);
    void say(std::string_view what) const;
    TimePoint arrival(End& from, std::size_t bytes);

    Network& network_;
    std::uint64_t number_;
    ClientId client_;
    End ends_[2];
};

class SimulatedStream final : public net::Stream {
public:
    SimulatedStream(Connection& connection, Side side, net::asio::any_io_executor executor);
    ~SimulatedStream() override;

    net::awaitable<Result<std::size_t>> read_some(std::span<std::byte> buffer) override;
    net::awaitable<Result<std::size_t>> write_some(std::span<const std::byte> bytes) override;
    net::awaitable<Result<void>> shutdown() override;
    void close() override;
    std::string remote() const override { return "world#" + std::to_string(number_); }
    net::asio::any_io_executor executor() override { return executor_; }

    void wake();                              // something may have changed
    void disown() { connection_ = nullptr; }  // the connection is gone with its process

private:
    bool over() const;
    net::awaitable<bool> wait(net::Timer& timer, TimePoint until);

    Connection* connection_;
    Side side_;
    std::uint64_t number_;
    net::asio::any_io_executor executor_;
    net::Timer readable_;
    net::Timer writable_;
    bool closed_ = false;
};

}  // namespace fedllm::tools::world
