// A connected byte stream. Two kinds: TLS over TCP (connect.hpp makes them) and an in-memory pair for tests
// and simulated worlds; everything above (channel, sessions, daemons) runs unchanged over both.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "common/net/awaitable.hpp"
#include "common/net/wire_bytes.hpp"

namespace fedllm::net {

// Lifecycle: one owner; closed by close() or destruction. Not to be destroyed while an operation is pending.
// Concurrency: all calls on executor(); at most one read and one write pending.
// Errors: PeerClosed when the other side ended or vanished, PeerUntrusted when it refused our certificate,
// Cancelled after close().
class Stream {
public:
    virtual ~Stream() = default;

    virtual awaitable<Result<std::size_t>> read_some(std::span<std::byte> buffer) = 0;  // at least 1 byte
    virtual awaitable<Result<std::size_t>> write_some(
        std::span<const std::byte> bytes) = 0;           // at least 1 byte
    virtual awaitable<Result<void>> shutdown() = 0;      // says that nothing more will be written
    virtual void close() = 0;                            // at once; pending operations end
    virtual std::string remote() const = 0;              // "127.0.0.1:40312", for logs
    virtual WireBytes wire_bytes() const { return {}; }  // also after close(); 0 where nothing counts
    virtual asio::any_io_executor executor() = 0;
};

// One end of an in-memory pair; deterministic: bytes arrive in the order and the sizes of the writes that
// fit.
class MemoryStream final : public Stream {
public:
    ~MemoryStream() override;
    awaitable<Result<std::size_t>> read_some(std::span<std::byte> buffer) override;
    awaitable<Result<std::size_t>> write_some(std::span<const std::byte> bytes) override;
    awaitable<Result<void>> shutdown() override;
    void close() override;
    std::string remote() const override { return "memory"; }
    asio::any_io_executor executor() override { return executor_; }

    // From now on `bytes` more bytes get through this end's writes; then the connection is gone, as by a cut
    // cable whose loss is noticed: both ends see PeerClosed.
    void cut_after(std::size_t bytes);

private:
    struct Pipe;
    friend std::pair<std::unique_ptr<MemoryStream>, std::unique_ptr<MemoryStream>> make_memory_streams(
        asio::any_io_executor executor, std::size_t buffer_bytes);
    MemoryStream(asio::any_io_executor executor, std::shared_ptr<Pipe> in, std::shared_ptr<Pipe> out);

    asio::any_io_executor executor_;
    std::shared_ptr<Pipe> in_;  // shared by the two ends: either may go first
    std::shared_ptr<Pipe> out_;
    bool closed_ = false;
};

// Each direction holds at most `buffer_bytes`; a writer waits for room.
std::pair<std::unique_ptr<MemoryStream>, std::unique_ptr<MemoryStream>> make_memory_streams(
    asio::any_io_executor executor, std::size_t buffer_bytes = std::size_t{64} << 10);

}  // namespace fedllm::net
