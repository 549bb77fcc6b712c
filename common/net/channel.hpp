// A channel: frames over a stream, with deadlines, limits and back-pressure.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/base/disk_memory.hpp"
#include "common/net/stream.hpp"
#include "common/net/watchdog.hpp"
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
// Concurrency: all calls on the stream's executor (one thread or one strand). One receive() at a time; any
// number of senders, which write in the order of their calls. A sender's call returns when its frame is
// written, so at most senders_waiting_max frames wait, each in its sender's hands: that is the back-pressure,
// and there is no write queue. Limits: see protocol/limits.hpp. Every wait has a deadline. A deadline that
// passes and an error of the stream close the channel, and are what every later call returns; after Malformed
// or TooLarge one may still send a Goodbye. Memory: a receive buffer only while a large frame is in hand,
// `frames_in_hand` amid chunks; an idle channel holds 12 KiB at most.
class Channel {
public:
    static constexpr std::size_t kFramesInHandMax = 3;

    Channel(std::unique_ptr<Stream> stream, const protocol::Limits& limits);
    ~Channel();
    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;

    // The next frame. Its bytes are valid until the next receive(); a chunk's, while only chunks follow,
    // until the frames_in_hand-th. Timeout when none begins within `idle_deadline`, or when one that has
    // begun comes slower than rate_bytes_min. TooLarge and Malformed as in frame.hpp.
    awaitable<Result<protocol::Frame>> receive(Duration idle_deadline);

    // Of so many chunks the bytes are valid from now on (1 at first, kFramesInHandMax at most): they may be
    // worked on while the next one arrives. To have fewer, none may be in use.
    void set_frames_in_hand(std::size_t frames);

    // The next frame, which must be a control frame with a valid message; OutOfOrder for a chunk.
    awaitable<Result<protocol::ClientMessage>> receive_client_message(Duration idle_deadline);
    awaitable<Result<protocol::ServerMessage>> receive_server_message(Duration idle_deadline);

    awaitable<Result<void>> send_control(const protocol::ClientMessage& message);
    awaitable<Result<void>> send_control(const protocol::ServerMessage& message);
    // `data` (borrowed until the call returns) may be shared by many channels: it is not copied.
    awaitable<Result<void>> send_chunk(std::uint64_t offset, std::span<const std::byte> data);

    // What the peer may send: greeting limits until Welcome, then the full ones. Starts with kGreetingLimits.
    void set_frame_limits(const protocol::FrameLimits& limits) { frame_limits_ = limits; }

    // After the senders before it: tells the peer that nothing more comes, waits for it to close too, so that
    // what was sent last is not lost in a reset, and closes.
    awaitable<void> shutdown(Duration deadline);
    // At once: every pending and later call ends, with Cancelled if nothing else had ended the channel.
    void close();
    bool closed() const { return closed_; }

    // No more chunks are expected now: what the last one needed is given back, its bytes too.
    void release();

    const ChannelStats& stats() const { return stats_; }
    std::string remote() const { return stream_->remote(); }
    WireBytes wire_bytes() const { return stream_->wire_bytes(); }
    Duration silent_for() const;  // since we last sent: when to Ping

private:
    class Turn;
    struct SendQueue;

    awaitable<Result<void>> take_turn(Turn& turn);
    awaitable<Result<void>> send_frame(std::vector<std::byte> head, std::span<const std::byte> rest);
    awaitable<Result<void>> send_message(std::vector<std::byte> message);
    awaitable<Result<void>> write_all(std::span<const std::byte> bytes);
    awaitable<Result<void>> read_all(std::span<std::byte> buffer, Duration limit);
    std::size_t window_bytes() const;
    Error end_with(Error error);

    std::unique_ptr<Stream> stream_;
    protocol::Limits limits_;
    protocol::FrameLimits frame_limits_ = protocol::kGreetingLimits;
    Watchdog read_watchdog_;
    Watchdog write_watchdog_;
    std::array<DiskMemory, kFramesInHandMax> bodies_;  // the first frames_in_hand_ by turns
    std::size_t frames_in_hand_ = 1;
    std::size_t turn_ = 0;
    bool amid_chunks_ = false;  // the next frame is likely one, too: the memory stays
    std::shared_ptr<SendQueue>
        senders_;                 // shared with the senders' coroutines, which may be destroyed after us
    std::optional<Error> ended_;  // why the channel is closed
    bool closed_ = false;
    TimePoint last_sent_;
    ChannelStats stats_;
};

}  // namespace fedllm::net
