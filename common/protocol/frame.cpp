#include "common/protocol/frame.hpp"

#include <algorithm>
#include <string>

namespace fedllm::protocol {
namespace {

template <class Integer>
void store_big(Integer value, std::byte* out) {
    for (std::size_t i = 0; i < sizeof(Integer); ++i) {
        out[i] = static_cast<std::byte>((value >> (8 * (sizeof(Integer) - 1 - i))) & 0xff);
    }
}

template <class Integer>
Integer load_big(const std::byte* in) {
    Integer value = 0;
    for (std::size_t i = 0; i < sizeof(Integer); ++i) value = (value << 8) | std::to_integer<Integer>(in[i]);
    return value;
}

constexpr std::size_t kKindBytes = 4;  // the kind and its three zero bytes, which the length counts

void store_header(FrameKind kind, std::size_t body_bytes, std::byte* out) {
    FEDLLM_CHECK(body_bytes > 0 && body_bytes <= UINT32_MAX - kKindBytes, "frame body size");
    store_big(static_cast<std::uint32_t>(body_bytes + kKindBytes), out);
    store_big(std::uint32_t{static_cast<std::uint8_t>(kind)} << 24, out + 4);
}

Error too_large(std::string_view what, std::size_t bytes, std::size_t bytes_max) {
    return make_error(Errc::TooLarge, std::string(what) + " of " + std::to_string(bytes) +
                                          " bytes, the limit here is " + std::to_string(bytes_max));
}

std::vector<std::byte> joined(std::span<const std::byte> head, std::span<const std::byte> body) {
    std::vector<std::byte> frame(head.size() + body.size());
    std::copy(head.begin(), head.end(), frame.begin());
    std::copy(body.begin(), body.end(), frame.begin() + static_cast<std::ptrdiff_t>(head.size()));
    return frame;
}

}  // namespace

Result<FrameHeader> decode_header(std::span<const std::byte, kFrameHeaderBytes> bytes,
                                  const FrameLimits& limits) {
    const auto length = load_big<std::uint32_t>(bytes.data());
    const auto kind = std::to_integer<unsigned>(bytes[4]);
    if (bytes[5] != std::byte{0} || bytes[6] != std::byte{0} || bytes[7] != std::byte{0}) {
        return make_error(Errc::Malformed, "frame header: the bytes after the kind must be zero");
    }
    const bool chunk = kind == static_cast<unsigned>(FrameKind::Chunk);
    if (!chunk && kind != static_cast<unsigned>(FrameKind::Control)) {
        return make_error(Errc::Malformed,
                          "frame header: kind " + std::to_string(kind) + " is neither 1 nor 2");
    }
    const std::size_t overhead = kKindBytes + (chunk ? kChunkPrefixBytes : 0);
    if (length <= overhead) {
        return make_error(Errc::Malformed,
                          "frame header: length " + std::to_string(length) + " leaves no body");
    }
    const std::size_t payload = length - overhead;
    const std::size_t payload_max = chunk ? limits.chunk_bytes_max : limits.control_bytes_max;
    if (payload > payload_max) return too_large(chunk ? "chunk" : "control frame", payload, payload_max);
    return FrameHeader{static_cast<FrameKind>(kind), length - static_cast<std::uint32_t>(kKindBytes)};
}

Result<Frame> decode_body(const FrameHeader& header, std::span<const std::byte> body) {
    FEDLLM_CHECK(body.size() == header.body_bytes, "the whole body is there");
    if (header.kind == FrameKind::Control) return Frame{FrameKind::Control, 0, body};
    const auto offset = load_big<std::uint64_t>(body.data());
    const auto data = body.subspan(kChunkPrefixBytes);
    if (offset > UINT64_MAX - data.size()) {
        return make_error(Errc::Malformed, "chunk: its end lies beyond 2^64 bytes");
    }
    return Frame{FrameKind::Chunk, offset, data};
}

Result<std::optional<Frame>> take_frame(std::span<const std::byte>& input, const FrameLimits& limits) {
    if (input.size() < kFrameHeaderBytes) return std::optional<Frame>{};
    FEDLLM_TRY(const FrameHeader header, decode_header(input.first<kFrameHeaderBytes>(), limits));
    if (input.size() - kFrameHeaderBytes < header.body_bytes) return std::optional<Frame>{};
    FEDLLM_TRY(const Frame frame, decode_body(header, input.subspan(kFrameHeaderBytes, header.body_bytes)));
    input = input.subspan(kFrameHeaderBytes + header.body_bytes);
    return std::optional<Frame>{frame};
}

std::array<std::byte, kFrameHeaderBytes> control_head(std::size_t message_bytes) {
    std::array<std::byte, kFrameHeaderBytes> head{};
    store_header(FrameKind::Control, message_bytes, head.data());
    return head;
}

std::array<std::byte, kFrameHeaderBytes + kChunkPrefixBytes> chunk_head(std::uint64_t offset,
                                                                        std::size_t data_bytes) {
    FEDLLM_CHECK(data_bytes > 0, "a chunk has data");
    std::array<std::byte, kFrameHeaderBytes + kChunkPrefixBytes> head{};
    store_header(FrameKind::Chunk, kChunkPrefixBytes + data_bytes, head.data());
    store_big(offset, head.data() + kFrameHeaderBytes);
    return head;
}

std::vector<std::byte> encode_control(std::span<const std::byte> message) {
    return joined(control_head(message.size()), message);
}

std::vector<std::byte> encode_chunk(std::uint64_t offset, std::span<const std::byte> data) {
    return joined(chunk_head(offset, data.size()), data);
}

}  // namespace fedllm::protocol
