#include "common/protocol/chunker.hpp"

#include <algorithm>

namespace fedllm::protocol {

Result<OutgoingTransfer> OutgoingTransfer::start(std::span<const std::byte> blob, std::uint64_t offset,
                                                 std::size_t chunk_bytes) {
    FEDLLM_CHECK(chunk_bytes > 0, "chunk size");
    if (offset > blob.size()) {
        return make_error(Errc::OutOfOrder, "transfer asked for from byte " + std::to_string(offset) +
                                                ", but it has " + std::to_string(blob.size()));
    }
    return OutgoingTransfer(blob, offset, chunk_bytes);
}

std::optional<Chunk> OutgoingTransfer::next() {
    if (remaining() == 0) return std::nullopt;
    const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(chunk_bytes_, remaining()));
    const Chunk chunk{offset_, blob_.subspan(static_cast<std::size_t>(offset_), size)};
    offset_ += size;
    return chunk;
}

Result<IncomingTransfer> IncomingTransfer::start(std::string_view digest_hex, std::uint64_t total) {
    FEDLLM_TRY(const crypto::Digest digest, crypto::from_hex(digest_hex));
    return IncomingTransfer(digest, total);
}

Result<void> IncomingTransfer::prime(std::span<const std::byte> held) { return accept({received_, held}); }

Result<void> IncomingTransfer::accept(const Chunk& chunk) {
    if (chunk.offset != received_) {
        return make_error(Errc::OutOfOrder, "chunk at byte " + std::to_string(chunk.offset) +
                                                ", expected byte " + std::to_string(received_));
    }
    if (chunk.data.size() > total_ - received_) {
        return make_error(Errc::TooLarge, "chunk of " + std::to_string(chunk.data.size()) +
                                              " bytes at byte " + std::to_string(chunk.offset) +
                                              " of a transfer of " + std::to_string(total_));
    }
    hash_.update(chunk.data);
    received_ += chunk.data.size();
    return {};
}

Result<void> IncomingTransfer::verify() {
    FEDLLM_CHECK(complete(), "verify() before the transfer is complete");
    const crypto::Digest actual = hash_.finish();
    if (actual == digest_) return {};
    return make_error(Errc::DigestMismatch, "received bytes hash to " + crypto::to_hex(actual) +
                                                ", announced was " + crypto::to_hex(digest_));
}

}  // namespace fedllm::protocol
