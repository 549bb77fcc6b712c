#include "tools/world/network.hpp"

#include "tools/world/connection.hpp"

namespace fedllm::tools::world {

using net::awaitable;

Network::Network(net::VirtualTime& time, Trace& trace, Tap& tap, Rng rng)
    : time_(time), trace_(trace), tap_(tap), rng_(rng) {}

Network::~Network() = default;

bool Network::chance(double probability) { return probability > 0 && rng_.uniform() < probability; }

Micros Network::draw_delay() {
    const auto jitter = static_cast<std::uint64_t>(Micros(weather_.jitter).count());
    if (jitter > 0) trace_.count(Trouble::Delay);
    return Micros(weather_.delay) + Micros(jitter > 0 ? rng_.below(jitter) : 0);
}

TimePoint Network::partitioned_until(const ClientId& client) const {
    const auto found = partitions_.find(client);
    return found == partitions_.end() ? TimePoint{} : found->second;
}

bool Network::newer_spoke(const ClientId& client, std::uint64_t connection) const {
    const auto found = newest_.find(client);
    return found != newest_.end() && found->second > connection;
}

void Network::listen(net::asio::any_io_executor executor, Accept accept) {
    listener_ = std::move(executor);
    accept_ = std::move(accept);
}

awaitable<Result<std::unique_ptr<net::Stream>>> Network::connect(ClientId client) {
    const auto executor = co_await net::asio::this_coro::executor;
    const auto slept = co_await net::sleep_for(std::chrono::duration_cast<Duration>(2 * draw_delay()) + 1ms);
    if (!slept) co_return slept.error();
    if (partitioned_until(client) > time_.now()) {
        const auto waited = co_await net::sleep_for(10s);
        if (!waited) co_return waited.error();
        co_return make_error(Errc::Timeout, "no answer");
    }
    if (!accept_ || chance(weather_.refused)) {
        if (accept_) trace_.count(Trouble::Refused);
        co_return make_error(Errc::PeerClosed, "connection refused");
    }
    const std::uint64_t number = ++last_connection_;
    auto& connection = connections_[number] = std::make_unique<Connection>(*this, number, client);
    connections_of_[client].insert(number);
    std::unique_ptr<net::Stream> mine = connection->attach(Side::Client, executor);
    std::unique_ptr<net::Stream> theirs = connection->attach(Side::Server, *listener_);
    trace_.say(client.get(), "connects as #" + std::to_string(number));
    accept_(std::move(theirs), client);
    newest_[client] = number;
    co_return std::move(mine);
}

void Network::forget(std::uint64_t connection) {
    tap_.on_end(connection);
    const auto gone = connections_.find(connection);
    connections_of_[gone->second->client()].erase(connection);
    connections_.erase(gone);
}

void Network::partition(const ClientId& client, TimePoint until) {
    trace_.count(Trouble::Partition);
    trace_.say(client.get(), "is cut off");
    partitions_[client] = until;
    for (const std::uint64_t number : connections_of_[client]) connections_.at(number)->hold_until(until);
}

void Network::vanish(Side side, const std::optional<ClientId>& client, Farewell how) {
    if (side == Side::Server) stop_listening();
    std::set<std::uint64_t> numbers;
    if (client) {
        numbers = connections_of_[*client];
    } else {
        for (const auto& [number, connection] : connections_) numbers.insert(number);
    }
    for (const std::uint64_t number : numbers) {
        const auto one = connections_.find(number);
        if (one == connections_.end()) continue;  // forgotten with the one before
        one->second->vanish(side, how);
        if (one->second->abandoned()) forget(number);
    }
}

}  // namespace fedllm::tools::world
