#include <algorithm>
#include <limits>
#include <vector>

#include "common/net/stream.hpp"

namespace fedllm::net {

// One direction: a ring of bytes and what happened to its ends.
struct MemoryStream::Pipe {
    Pipe(const asio::any_io_executor& executor, std::size_t bytes) : ring(bytes), changed(executor) {}

    std::size_t room() const { return ring.size() - size; }

    void put(std::span<const std::byte> bytes) {
        for (const std::byte byte : bytes) ring[(head + size++) % ring.size()] = byte;
    }

    void take(std::span<std::byte> bytes) {
        for (std::byte& byte : bytes) {
            byte = ring[head];
            head = (head + 1) % ring.size();
        }
        size -= bytes.size();
    }

    // The timer never fires; cancelling it wakes whoever waits, reader and writer.
    void notify() { changed.cancel(); }
    awaitable<bool> wait() {
        (void)co_await changed.async_wait(kNoThrow);
        const auto state = co_await asio::this_coro::cancellation_state;
        co_return state.cancelled() == asio::cancellation_type::none;
    }

    std::vector<std::byte> ring;
    std::size_t head = 0;
    std::size_t size = 0;
    std::size_t until_cut = std::numeric_limits<std::size_t>::max();
    bool ended = false;  // the writer said so
    bool cut = false;    // either end is gone
    Timer changed;
};

MemoryStream::MemoryStream(asio::any_io_executor executor, std::shared_ptr<Pipe> in,
                           std::shared_ptr<Pipe> out)
    : executor_(std::move(executor)), in_(std::move(in)), out_(std::move(out)) {}

MemoryStream::~MemoryStream() { close(); }

awaitable<Result<std::size_t>> MemoryStream::read_some(std::span<std::byte> buffer) {
    const std::shared_ptr<Pipe> pipe = in_;
    while (pipe->size == 0) {
        if (closed_) co_return make_error(Errc::Cancelled, "the stream was closed");
        if (pipe->ended || pipe->cut)
            co_return make_error(Errc::PeerClosed, "the peer closed the connection");
        if (!co_await pipe->wait()) co_return make_error(Errc::Cancelled, "the read was cancelled");
    }
    const std::size_t count = std::min(buffer.size(), pipe->size);
    pipe->take(buffer.first(count));
    pipe->notify();
    co_return count;
}

awaitable<Result<std::size_t>> MemoryStream::write_some(std::span<const std::byte> bytes) {
    const std::shared_ptr<Pipe> pipe = out_;
    while (true) {
        if (closed_) co_return make_error(Errc::Cancelled, "the stream was closed");
        if (pipe->cut) co_return make_error(Errc::PeerClosed, "the connection is gone");
        if (pipe->room() > 0) break;
        if (!co_await pipe->wait()) co_return make_error(Errc::Cancelled, "the write was cancelled");
    }
    const std::size_t count = std::min({bytes.size(), pipe->room(), pipe->until_cut});
    pipe->put(bytes.first(count));
    pipe->until_cut -= count;
    if (pipe->until_cut == 0) {
        pipe->cut = in_->cut = true;
        in_->notify();
    }
    pipe->notify();
    if (count == 0) co_return make_error(Errc::PeerClosed, "the connection is gone");
    co_return count;
}

awaitable<Result<void>> MemoryStream::shutdown() {
    out_->ended = true;
    out_->notify();
    co_return Result<void>{};
}

void MemoryStream::close() {
    closed_ = true;
    out_->ended = true;
    in_->cut = true;
    in_->notify();
    out_->notify();
}

void MemoryStream::cut_after(std::size_t bytes) { out_->until_cut = bytes; }

std::pair<std::unique_ptr<MemoryStream>, std::unique_ptr<MemoryStream>> make_memory_streams(
    asio::any_io_executor executor, std::size_t buffer_bytes) {
    auto there = std::make_shared<MemoryStream::Pipe>(executor, buffer_bytes);
    auto back = std::make_shared<MemoryStream::Pipe>(executor, buffer_bytes);
    return {std::unique_ptr<MemoryStream>(new MemoryStream(executor, back, there)),
            std::unique_ptr<MemoryStream>(new MemoryStream(executor, there, back))};
}

}  // namespace fedllm::net
