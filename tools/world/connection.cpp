#include "tools/world/connection.hpp"

#include <algorithm>

namespace fedllm::tools::world {

using net::awaitable;

Connection::Connection(Network& network, std::uint64_t number, ClientId client)
    : network_(network), number_(number), client_(std::move(client)) {}

TimePoint Connection::now() const { return network_.time_.now(); }

void Connection::say(std::string_view what) const {
    network_.trace_.say(client_.get() + "#" + std::to_string(number_), what);
}

std::unique_ptr<SimulatedStream> Connection::attach(Side side, net::asio::any_io_executor executor) {
    auto stream = std::make_unique<SimulatedStream>(*this, side, std::move(executor));
    end(side).stream = stream.get();
    return stream;
}

void Connection::detach(Side side) {
    close(side);
    end(side).stream = nullptr;
    if (abandoned()) network_.forget(number_);  // and with it this
}

void Connection::wake(Side side) {
    if (end(side).stream != nullptr) end(side).stream->wake();
}

// ---------------------------------------------------------------------------------------------------- bytes

TimePoint Connection::arrival(End& from, std::size_t bytes) {
    const Weather& weather = network_.weather_;
    from.link_free =
        std::max(from.link_free, now()) +
        Micros(static_cast<std::int64_t>(1e6 * static_cast<double>(bytes) / weather.bytes_per_second));
    TimePoint arrives = from.link_free + network_.draw_delay();
    for (Duration again = 200ms; network_.chance(weather.loss); again *= 2) {
        network_.trace_.count(Trouble::Loss);
        arrives += again;
        if (again > 20s) break;
    }
    const TimePoint partitioned = network_.partitioned_until(client_);
    if (partitioned > now()) arrives = std::max(arrives, partitioned + network_.draw_delay());
    return from.last_arrival = std::max(arrives, from.last_arrival);
}

std::size_t Connection::send(Side side, std::span<const std::byte> bytes) {
    End& from = end(side);
    const Weather& weather = network_.weather_;
    if (from.bytes_under_way >= weather.window_bytes) return 0;
    const std::size_t count =
        std::min({bytes.size(), weather.segment_bytes, weather.window_bytes - from.bytes_under_way});
    const std::span piece = bytes.first(count);
    network_.tap_.on_bytes(number_, client_, side, piece);
    from.bytes_under_way += count;
    if (from.mute) return count;
    from.under_way.push_back({arrival(from, count), {piece.begin(), piece.end()}});
    break_now(side);
    wake(other(side));
    return count;
}

void Connection::break_now(Side from) {
    const Weather& weather = network_.weather_;
    if (network_.chance(weather.reset)) {
        network_.trace_.count(Trouble::Reset);
        say("reset");
        reset(now());
    } else if (network_.chance(weather.half_open)) {
        // The one that hears of it may have bytes under way: they still arrive, late.
        const Side hears = network_.chance(0.75) ? Side::Client : other(from);
        network_.trace_.count(Trouble::HalfOpen);
        say(hears == Side::Client ? "half open: the client hears of its end"
                                  : "half open: the server hears of its end");
        end(hears).hears_of_end = std::min(end(hears).hears_of_end, now() + network_.draw_delay());
        end(other(hears)).mute = true;
        const Micros late = Micros(network_.rng_.below(20'000'000));
        for (Segment& segment : end(hears).under_way) segment.arrives += late;
        end(hears).last_arrival += late;
        wake(hears);
    } else if (network_.chance(weather.silence)) {
        network_.trace_.count(Trouble::Silence);
        say("silence");
        for (End& one : ends_) {
            one.mute = true;
            one.under_way.clear();
        }
    }
}

void Connection::reset(TimePoint at) {
    for (const Side side : {Side::Client, Side::Server}) {
        end(side).hears_of_end = std::min(end(side).hears_of_end, at + network_.draw_delay());
        end(side).mute = true;
        wake(side);
    }
}

std::size_t Connection::take(Side to, std::span<std::byte> into) {
    End& from = end(other(to));
    if (from.under_way.empty() || from.under_way.front().arrives > now()) return 0;
    std::vector<std::byte>& bytes = from.under_way.front().bytes;
    const std::size_t count = std::min(into.size(), bytes.size());
    std::copy_n(bytes.begin(), count, into.begin());
    if (to == Side::Server && network_.newer_spoke(client_, number_)) {
        network_.trace_.count(Trouble::LateBytes);
        say("late bytes");
    }
    bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(count));
    if (bytes.empty()) from.under_way.pop_front();
    if (!from.mute) from.bytes_under_way -= count;
    wake(other(to));
    return count;
}

TimePoint Connection::next_news(Side side) {
    const End& from = end(other(side));
    TimePoint news = end(side).hears_of_end;
    if (!from.under_way.empty()) return std::min(news, from.under_way.front().arrives);
    if (from.closing_arrives) news = std::min(news, *from.closing_arrives);
    return news;
}

// ------------------------------------------------------------------------------------------------- endings

void Connection::close(Side side) {
    End& from = end(side);
    if (from.closing_arrives || from.mute) return;
    from.closing_arrives = arrival(from, 0);
    wake(other(side));
}

void Connection::vanish(Side side, Network::Farewell how) {
    if (SimulatedStream* const stream = std::exchange(end(side).stream, nullptr)) stream->disown();
    switch (how) {
        case Network::Farewell::Close: close(side); break;
        case Network::Farewell::Reset: reset(now()); break;
        case Network::Farewell::Nothing: end(side).under_way.clear(); break;
    }
    end(side).mute = end(other(side)).mute = true;
}

void Connection::hold_until(TimePoint time) {
    for (End& one : ends_) {
        for (Segment& segment : one.under_way) {
            if (segment.arrives > now()) segment.arrives = std::max(segment.arrives, time);
        }
        if (one.closing_arrives && *one.closing_arrives > now())
            one.closing_arrives = std::max(*one.closing_arrives, time);
        if (one.hears_of_end != net::kNever && one.hears_of_end > now())
            one.hears_of_end = std::max(one.hears_of_end, time);
        if (!one.under_way.empty()) one.last_arrival = std::max(one.last_arrival, time);
    }
    wake(Side::Client);
    wake(Side::Server);
}

// ------------------------------------------------------------------------------------------------- streams

SimulatedStream::SimulatedStream(Connection& connection, Side side, net::asio::any_io_executor executor)
    : connection_(&connection),
      side_(side),
      number_(connection.number()),
      executor_(std::move(executor)),
      readable_(executor_),
      writable_(executor_) {}

SimulatedStream::~SimulatedStream() {
    if (connection_ != nullptr) connection_->detach(side_);
}

bool SimulatedStream::over() const {
    return connection_ == nullptr || connection_->now() >= connection_->end(side_).hears_of_end;
}

void SimulatedStream::wake() {
    readable_.cancel();
    writable_.cancel();
}

awaitable<bool> SimulatedStream::wait(net::Timer& timer, TimePoint until) {
    timer.expires_at(until);
    (void)co_await timer.async_wait(net::kNoThrow);
    const auto state = co_await net::asio::this_coro::cancellation_state;
    co_return state.cancelled() == net::asio::cancellation_type::none;
}

awaitable<Result<std::size_t>> SimulatedStream::read_some(std::span<std::byte> buffer) {
    for (;;) {
        if (closed_) co_return make_error(Errc::Cancelled, "the stream was closed");
        if (over()) co_return make_error(Errc::PeerClosed, "the connection is gone");
        if (const std::size_t count = connection_->take(side_, buffer); count > 0) co_return count;
        const End& from = connection_->end(Connection::other(side_));
        const bool ended =
            from.under_way.empty() && from.closing_arrives && *from.closing_arrives <= connection_->now();
        if (ended) co_return make_error(Errc::PeerClosed, "the peer closed the connection");
        const bool goes_on = co_await wait(readable_, connection_->next_news(side_));
        if (!goes_on) co_return make_error(Errc::Cancelled, "the read was cancelled");
    }
}

awaitable<Result<std::size_t>> SimulatedStream::write_some(std::span<const std::byte> bytes) {
    for (;;) {
        if (closed_) co_return make_error(Errc::Cancelled, "the stream was closed");
        if (over()) co_return make_error(Errc::PeerClosed, "the connection is gone");
        if (const std::size_t count = connection_->send(side_, bytes); count > 0) co_return count;
        const bool goes_on = co_await wait(writable_, connection_->end(side_).hears_of_end);
        if (!goes_on) co_return make_error(Errc::Cancelled, "the write was cancelled");
    }
}

awaitable<Result<void>> SimulatedStream::shutdown() {
    if (connection_ != nullptr && !closed_) connection_->close(side_);
    co_return Result<void>{};
}

void SimulatedStream::close() {
    if (std::exchange(closed_, true)) return;
    if (connection_ != nullptr) connection_->close(side_);
    wake();
}

}  // namespace fedllm::tools::world
