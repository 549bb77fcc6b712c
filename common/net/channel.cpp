#include "common/net/channel.hpp"

#include <algorithm>
#include <deque>

namespace fedllm::net {
namespace {

using protocol::Frame;
using protocol::FrameKind;

// A chunk's first bytes are copied behind its head, so that head and data fill one TLS record (16 KiB)
// together.
constexpr std::size_t kHeadBytes = std::size_t{16} << 10;

constexpr std::size_t kIdleBytes = std::size_t{4} << 10;  // of each that an idle channel may keep

// Before the body of a large chunk, so that its data begins where a disk can take it from, without a copy.
constexpr std::size_t kPadBytes = kDiskBlockBytes - protocol::kChunkPrefixBytes;

}  // namespace

struct Channel::SendQueue {
    std::deque<Turn*> waiting;  // in order of their calls
    bool busy = false;          // somebody has the turn
};

// A sender's turn to write: waited for in line, passed on when it goes.
class Channel::Turn {
public:
    Turn(std::shared_ptr<SendQueue> queue, const asio::any_io_executor& executor)
        : queue_(std::move(queue)), woken_(executor) {}
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

    ~Turn() {
        if (!held_) {
            std::erase(queue_->waiting, this);
            return;
        }
        queue_->busy = false;
        if (queue_->waiting.empty()) return;
        Turn* const next = queue_->waiting.front();
        queue_->waiting.pop_front();
        next->hold();
        next->wake();
    }

    void hold() { held_ = queue_->busy = true; }
    bool held() const { return held_; }
    void wake() { woken_.cancel(); }

    // Ends with the turn held, unless the coroutine was cancelled.
    awaitable<void> wait() {
        queue_->waiting.push_back(this);
        (void)co_await woken_.async_wait(kNoThrow);
    }

private:
    std::shared_ptr<SendQueue> queue_;
    Timer woken_;
    bool held_ = false;
};

Channel::Channel(std::unique_ptr<Stream> stream, const protocol::Limits& limits)
    : stream_(std::move(stream)),
      limits_(limits),
      read_watchdog_(stream_->executor(),
                     [this] { end_with(make_error(Errc::Timeout, "the peer sent nothing, or too slowly")); }),
      write_watchdog_(
          stream_->executor(),
          [this] { end_with(make_error(Errc::Timeout, "the peer takes nothing, or too slowly")); }),
      senders_(std::make_shared<SendQueue>()),
      last_sent_(now(stream_->executor())) {}

Channel::~Channel() { close(); }

// ----------------------------------------------------------------------------------------------------
// receiving

awaitable<Result<Frame>> Channel::receive(Duration idle_deadline) {
    if (!amid_chunks_) release();
    std::array<std::byte, protocol::kFrameHeaderBytes> head;
    FEDLLM_CO_TRY_VOID(co_await read_all(head, idle_deadline));
    FEDLLM_CO_TRY(const auto header, protocol::decode_header(head, frame_limits_));
    const std::size_t pad = header.body_bytes > kDiskBlockBytes ? kPadBytes : 0;
    turn_ = (turn_ + 1) % frames_in_hand_;
    DiskMemory& memory = bodies_[turn_];
    if (pad + header.body_bytes > memory.bytes().size()) memory = DiskMemory(pad + header.body_bytes);
    const std::span body = memory.bytes().subspan(pad, header.body_bytes);
    FEDLLM_CO_TRY_VOID(co_await read_all(body, limits_.rate_window));
    stats_.frames_in += 1;
    amid_chunks_ = header.kind == FrameKind::Chunk;
    co_return protocol::decode_body(header, body);
}

void Channel::set_frames_in_hand(std::size_t frames) {
    for (std::size_t i = frames; i < bodies_.size(); ++i) bodies_[i] = {};
    frames_in_hand_ = frames;
}

void Channel::release() {
    amid_chunks_ = false;
    for (DiskMemory& memory : bodies_) {
        if (memory.bytes().size() > kIdleBytes) memory = {};
    }
}

// What the slowest peer that we allow sends or takes in one window.
std::size_t Channel::window_bytes() const {
    const auto bytes = limits_.rate_bytes_min * static_cast<std::size_t>(limits_.rate_window.count()) / 1000;
    return std::max<std::size_t>(bytes, 1);
}

// Window by window: a peer that drips a byte now and then does not hold our buffer for ever.
awaitable<Result<void>> Channel::read_all(std::span<std::byte> buffer, Duration limit) {
    if (closed_) co_return end_with({});
    read_watchdog_.start(limit);
    for (std::size_t in_window = 0; !buffer.empty();) {
        const auto count = co_await stream_->read_some(buffer);
        if (!count) co_return end_with(count.error());
        stats_.bytes_in += *count;
        buffer = buffer.subspan(*count);
        in_window += *count;
        if (in_window >= window_bytes()) read_watchdog_.start(limit);
        in_window %= window_bytes();
    }
    read_watchdog_.stop();
    co_return Result<void>{};
}

awaitable<Result<protocol::ClientMessage>> Channel::receive_client_message(Duration idle_deadline) {
    FEDLLM_CO_TRY(const Frame frame, co_await receive(idle_deadline));
    if (frame.kind != FrameKind::Control)
        co_return make_error(Errc::OutOfOrder, "a chunk instead of a message");
    co_return protocol::parse_client_message(frame.bytes);
}

awaitable<Result<protocol::ServerMessage>> Channel::receive_server_message(Duration idle_deadline) {
    FEDLLM_CO_TRY(const Frame frame, co_await receive(idle_deadline));
    if (frame.kind != FrameKind::Control)
        co_return make_error(Errc::OutOfOrder, "a chunk instead of a message");
    co_return protocol::parse_server_message(frame.bytes);
}

// ------------------------------------------------------------------------------------------------------
// sending

awaitable<Result<void>> Channel::send_control(const protocol::ClientMessage& message) {
    return send_message(protocol::encode(message));
}

awaitable<Result<void>> Channel::send_control(const protocol::ServerMessage& message) {
    return send_message(protocol::encode(message));
}

awaitable<Result<void>> Channel::send_message(std::vector<std::byte> message) {
    if (message.size() > limits_.frame.control_bytes_max) {
        co_return make_error(Errc::TooLarge,
                             "our own message has " + std::to_string(message.size()) + " bytes");
    }
    co_return co_await send_frame(protocol::encode_control(message), {});
}

awaitable<Result<void>> Channel::send_chunk(std::uint64_t offset, std::span<const std::byte> data) {
    const auto head = protocol::chunk_head(offset, data.size());
    const auto first = data.first(std::min(data.size(), kHeadBytes - head.size()));
    std::vector<std::byte> record(head.size() + first.size());
    std::copy(head.begin(), head.end(), record.begin());
    std::copy(first.begin(), first.end(), record.begin() + head.size());
    co_return co_await send_frame(std::move(record), data.subspan(first.size()));
}

awaitable<Result<void>> Channel::take_turn(Turn& turn) {
    if (closed_) co_return end_with({});
    if (!senders_->busy) {
        turn.hold();
        co_return Result<void>{};
    }
    if (senders_->waiting.size() >= limits_.senders_waiting_max) {
        co_return make_error(Errc::TooLarge, "too many senders wait for this channel");
    }
    co_await turn.wait();
    if (closed_) co_return end_with({});
    if (!turn.held()) co_return make_error(Errc::Cancelled, "a wait to send was cancelled");
    co_return Result<void>{};
}

awaitable<Result<void>> Channel::send_frame(std::vector<std::byte> head, std::span<const std::byte> rest) {
    Turn turn(senders_, stream_->executor());
    FEDLLM_CO_TRY_VOID(co_await take_turn(turn));
    FEDLLM_CO_TRY_VOID(co_await write_all(head));
    head = std::vector<std::byte>();  // the peer may be slow to take the rest
    FEDLLM_CO_TRY_VOID(co_await write_all(rest));
    stats_.frames_out += 1;
    last_sent_ = now(stream_->executor());
    co_return Result<void>{};
}

awaitable<Result<void>> Channel::write_all(std::span<const std::byte> bytes) {
    write_watchdog_.start(limits_.rate_window);
    for (std::size_t in_window = 0; !bytes.empty();) {
        // Not beyond the window: a stream says nothing of what it writes before all of it is gone.
        const auto piece = bytes.first(std::min(bytes.size(), window_bytes() - in_window));
        const auto count = co_await stream_->write_some(piece);
        if (!count) co_return end_with(count.error());
        stats_.bytes_out += *count;
        bytes = bytes.subspan(*count);
        in_window += *count;
        if (in_window >= window_bytes()) write_watchdog_.start(limits_.rate_window);
        in_window %= window_bytes();
    }
    write_watchdog_.stop();
    co_return Result<void>{};
}

// -------------------------------------------------------------------------------------------------------
// ending

awaitable<void> Channel::shutdown(Duration deadline) {
    {
        Turn turn(senders_, stream_->executor());
        if (co_await take_turn(turn)) (void)co_await within(deadline, stream_->shutdown());
    }
    close();
}

void Channel::close() {
    if (closed_) return;
    closed_ = true;
    read_watchdog_.stop();
    write_watchdog_.stop();
    stream_->close();  // ends the write that is pending, whose Turn wakes the next sender, and so on
}

// The first reason stays: what a closed stream says afterwards is only its echo.
Error Channel::end_with(Error error) {
    if (!ended_) ended_ = closed_ ? make_error(Errc::Cancelled, "the channel was closed") : std::move(error);
    close();
    return *ended_;
}

Duration Channel::silent_for() const {
    return std::chrono::duration_cast<Duration>(now(stream_->executor()) - last_sent_);
}

}  // namespace fedllm::net
