// A stream that keeps to a rate: what a site lets a federation take of its line.
#pragma once

#include <memory>

#include "common/net/stream.hpp"
#include "common/net/timer.hpp"

namespace fedllm::net {

// A token bucket: so many bytes per second, saved up for a quarter of a second at most.
class RateLimit {
public:
    RateLimit(std::uint64_t bytes_per_second, TimePoint now);

    bool unlimited() const { return rate_ == 0; }
    // How many of `wanted` bytes may go now; 0: none before wait() is over.
    std::size_t allowance(std::size_t wanted, TimePoint now);
    void use(std::size_t bytes) { saved_ -= static_cast<double>(bytes); }
    Duration wait() const;  // until a worthwhile piece may go

private:
    double rate_;
    double burst_;
    double saved_;
    TimePoint counted_;
};

struct Rates {
    std::uint64_t sent_max = 0;      // bytes per second; 0: unlimited
    std::uint64_t received_max = 0;  // by reading slowly: the peer's TCP then sends slowly
};

// Counts what is written and read above TLS. Lifecycle and concurrency as those of Stream.
class ThrottledStream final : public Stream {
public:
    ThrottledStream(std::unique_ptr<Stream> stream, const Rates& rates);

    awaitable<Result<std::size_t>> read_some(std::span<std::byte> buffer) override;
    awaitable<Result<std::size_t>> write_some(std::span<const std::byte> bytes) override;
    awaitable<Result<void>> shutdown() override { return stream_->shutdown(); }
    void close() override;
    std::string remote() const override { return stream_->remote(); }
    WireBytes wire_bytes() const override { return stream_->wire_bytes(); }
    asio::any_io_executor executor() override { return stream_->executor(); }

private:
    struct Direction {
        RateLimit limit;
        Timer pause;
    };
    awaitable<Result<std::size_t>> wait_for(Direction& direction, std::size_t wanted);

    std::unique_ptr<Stream> stream_;
    Direction in_;
    Direction out_;
    std::size_t owed_ = 0;  // of the last piece that was to be written
    bool closed_ = false;
};

// `stream` itself where nothing limits it.
std::unique_ptr<Stream> throttled(std::unique_ptr<Stream> stream, const Rates& rates);

}  // namespace fedllm::net
