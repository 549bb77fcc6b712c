// Transfers: a blob of known size and digest cut into chunks, put together again, resumable at any byte.
// Pure logic over spans: the channel moves the chunks, the caller decides where the bytes lie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "common/base/result.hpp"
#include "common/crypto/sha256.hpp"

namespace fedllm::protocol {

struct Chunk {
    std::uint64_t offset = 0;
    std::span<const std::byte> data;
};

// Cuts `blob` from `offset` to its end into chunks of at most `chunk_bytes`. Borrows the blob: many transfers
// share it.
class OutgoingTransfer {
public:
    // OutOfOrder when `offset` lies beyond the end.
    static Result<OutgoingTransfer> start(std::span<const std::byte> blob, std::uint64_t offset,
                                          std::size_t chunk_bytes);

    std::optional<Chunk> next();  // nothing once all is sent
    std::uint64_t offset() const { return offset_; }
    std::uint64_t remaining() const { return blob_.size() - offset_; }

private:
    OutgoingTransfer(std::span<const std::byte> blob, std::uint64_t offset, std::size_t chunk_bytes)
        : blob_(blob), offset_(offset), chunk_bytes_(chunk_bytes) {}

    std::span<const std::byte> blob_;
    std::uint64_t offset_;
    std::size_t chunk_bytes_;
};

// Checks order, size and digest of what arrives. Bytes held from before a cut go through prime() first.
//   for each chunk: accept(), then write it; when complete(): verify(), then believe it.
class IncomingTransfer {
public:
    // `digest_hex` is what the sender announced, `total` its size. InvalidArgument for a text that is no
    // digest.
    static Result<IncomingTransfer> start(std::string_view digest_hex, std::uint64_t total);

    // Bytes already held, in order, from the first: before any accept(). TooLarge beyond the total.
    Result<void> prime(std::span<const std::byte> held);
    // Exactly the next bytes: a gap, an overlap or a repetition is OutOfOrder, more than announced TooLarge.
    Result<void> accept(const Chunk& chunk);

    bool complete() const { return received_ == total_; }
    // DigestMismatch unless the bytes hash to the digest. Call once, when complete.
    Result<void> verify();

    std::uint64_t offset() const { return received_; }  // where the sender goes on
    std::uint64_t total() const { return total_; }
    const crypto::Digest& digest() const { return digest_; }

private:
    IncomingTransfer(const crypto::Digest& digest, std::uint64_t total) : digest_(digest), total_(total) {}

    crypto::Digest digest_;
    std::uint64_t total_;
    std::uint64_t received_ = 0;
    crypto::Sha256 hash_;
};

}  // namespace fedllm::protocol
