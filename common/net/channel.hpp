// A channel: frames over a stream, with deadlines, limits and back-pressure.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/net/progress_watch.hpp"
#include "common/net/stream.hpp"
#include "common/protocol/frame.hpp"
#include "common/protocol/messages.hpp"

namespace fedllm::net {

struct ChannelStats {  // on the wire, headers included, TLS's own bytes not
    std::uint64_t bytes_in = 0;
    std::uint64_t bytes_out = 0;
    std::uint64_t frames_in = 0;
    std::uint64_t frames_out = 0;
};

// Lifecycle: one owner, who lets pending calls end (after close() they end at once) before destroying it.
// Concurrency: all calls on the stream's executor (one thread or one strand). One receive() at a time; any number of
// senders, which write in the order of their calls. A sender's call returns when its frame is written, so at most
// senders_waiting_max frames wait, each in its sender's hands: that is the back-pressure, and there is no write queue.
// Limits: see protocol/limits.hpp. Every wait has a deadline; one that passes closes the channel.
// Memory: a receive buffer only while a large frame is in hand; an idle channel holds a few hundred bytes.
class Channel {
public:
    Channel(std::unique_ptr<Stream> stream, const protocol::Limits& limits);
    ~Channel();
    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;

    // The next frame. Its bytes are valid until the next receive(). Timeout when no byte arrives for `idle_deadline`,
    // or when a frame that has begun comes slower than rate_bytes_min. TooLarge and Malformed as in frame.hpp.
    awaitable<Result<protocol::Frame>> receive(Duration idle_deadline);

    // The next frame, which must be a control frame with a valid message; OutOfOrder for a chunk.
    awaitable<Result<protocol::ClientMessage>> receive_client_message(Duration idle_deadline);
    awaitable<Result<protocol::ServerMessage>> receive_server_message(Duration idle_deadline);

    awaitable<Result<void>> send_control(const protocol::ClientMessage& message);
    awaitable<Result<void>> send_control(const protocol::ServerMessage& message);
    // `data` (borrowed until the call returns) may be shared by many channels: it is not copied.
    awaitable<Result<void>> send_chunk(std::uint64_t offset, std::span<const std::byte> data);

    // What the peer may send: greeting limits until Welcome, then the full ones. Starts with kGreetingLimits.
    void set_frame_limits(const protocol::FrameLimits& limits) { frame_limits_ = limits; }

    // After the senders before it: tells the peer that nothing more comes, and closes.
    awaitable<void> shutdown(Duration deadline);
    // At once: every pending and later call ends with Cancelled.
    void close();
    bool closed() const { return closed_; }

    const ChannelStats& stats() const { return stats_; }
    std::string remote() const { return stream_->remote(); }
    Duration silent_for() const;  // since we last sent: when to Ping

private:
    class Turn;
    awaitable<Result<void>> wait_turn(Turn& turn);
    void end_turn();
    awaitable<Result<void>> send_frame(std::vector<std::byte> head, std::span<const std::byte> rest);
    awaitable<Result<void>> write_all(std::span<const std::byte> bytes);
    awaitable<Result<void>> read_exactly(std::span<std::byte> buffer);
    Error explain(Error error, const ProgressWatch& watch) const;

    std::unique_ptr<Stream> stream_;
    protocol::Limits limits_;
    protocol::FrameLimits frame_limits_ = protocol::kGreetingLimits;
    ProgressWatch read_watch_;
    ProgressWatch write_watch_;
    std::unique_ptr<std::byte[]> body_;
    std::size_t body_capacity_ = 0;
    std::deque<asio::steady_timer*> waiting_;  // senders in order of their calls; a cancelled timer wakes its sender
    bool writing_ = false;
    bool closed_ = false;
    std::chrono::steady_clock::time_point last_sent_;
    ChannelStats stats_;
};

}  // namespace fedllm::net
