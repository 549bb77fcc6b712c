#include "common/net/throttled_stream.hpp"

#include <algorithm>

namespace fedllm::net {
namespace {

constexpr double kSavedSeconds = 0.25;
constexpr double kPieceSeconds = 0.02;  // no less at a time, lest we wake for every byte

}  // namespace

RateLimit::RateLimit(std::uint64_t bytes_per_second, TimePoint now)
    : rate_(static_cast<double>(bytes_per_second)),
      burst_(std::max(rate_ * kSavedSeconds, 1.0)),
      saved_(burst_),
      counted_(now) {}

std::size_t RateLimit::allowance(std::size_t wanted, TimePoint now) {
    if (unlimited()) return wanted;
    saved_ = std::min(burst_, saved_ + rate_ * std::chrono::duration<double>(now - counted_).count());
    counted_ = now;
    if (saved_ < std::min({1.0 + rate_ * kPieceSeconds, burst_, static_cast<double>(wanted)})) return 0;
    return std::min(wanted, static_cast<std::size_t>(saved_));
}

Duration RateLimit::wait() const {
    const double missing = std::max(0.0, std::min(1.0 + rate_ * kPieceSeconds, burst_) - saved_);
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(missing / rate_)) + Duration(1);
}

ThrottledStream::ThrottledStream(std::unique_ptr<Stream> stream, const Rates& rates)
    : stream_(std::move(stream)),
      in_{RateLimit(rates.received_max, now(stream_->executor())), Timer(stream_->executor())},
      out_{RateLimit(rates.sent_max, now(stream_->executor())), Timer(stream_->executor())} {}

awaitable<Result<std::size_t>> ThrottledStream::wait_for(Direction& direction, std::size_t wanted) {
    for (;;) {
        if (closed_) co_return make_error(Errc::Cancelled, "the stream was closed");
        const std::size_t allowed = direction.limit.allowance(wanted, now(executor()));
        if (allowed > 0) co_return allowed;
        direction.pause.expires_after(direction.limit.wait());
        [[maybe_unused]] const auto [woken] = co_await direction.pause.async_wait(kNoThrow);
    }
}

awaitable<Result<std::size_t>> ThrottledStream::read_some(std::span<std::byte> buffer) {
    FEDLLM_CO_TRY(const std::size_t allowed, co_await wait_for(in_, buffer.size()));
    FEDLLM_CO_TRY(const std::size_t count, co_await stream_->read_some(buffer.first(allowed)));
    in_.limit.use(count);
    co_return count;
}

// What the stream did not take of a piece it must be offered again in full: TLS may have begun a record of
// it.
awaitable<Result<std::size_t>> ThrottledStream::write_some(std::span<const std::byte> bytes) {
    if (owed_ == 0) {
        FEDLLM_CO_TRY(owed_, co_await wait_for(out_, bytes.size()));
    }
    const std::size_t piece = std::min(owed_, bytes.size());
    FEDLLM_CO_TRY(const std::size_t count, co_await stream_->write_some(bytes.first(piece)));
    out_.limit.use(count);
    owed_ = piece - count;
    co_return count;
}

void ThrottledStream::close() {
    closed_ = true;
    stream_->close();
    in_.pause.cancel();
    out_.pause.cancel();
}

std::unique_ptr<Stream> throttled(std::unique_ptr<Stream> stream, const Rates& rates) {
    if (rates.sent_max == 0 && rates.received_max == 0) return stream;
    return std::make_unique<ThrottledStream>(std::move(stream), rates);
}

}  // namespace fedllm::net
