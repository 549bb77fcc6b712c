// Frames: how messages and tensor bytes lie on the wire. Pure functions over bytes; the I/O is in common/net.
//
// Grammar (all integers big-endian, unsigned):
//
//   connection = frame*                        each direction on its own
//   frame      = length:u32 kind:u8 zero:u8[3] body
//   length     = 4 + size of body              everything after the length itself
//   kind       = 1 (control) | 2 (chunk)
//   body       = message                       control: one serialized ClientMessage or ServerMessage, at
//   least 1 byte
//              | offset:u64 data               chunk: data starts at `offset` of what is transferred, at
//              least 1 byte
//
// Worked examples:
//   ClientMessage{ping{}} serializes to 3a 00:
//     00 00 00 06  01 00 00 00  3a 00
//   the bytes "ab" at offset 256 of a transfer:
//     00 00 00 0e  02 00 00 00  00 00 00 00 00 00 01 00  61 62
//
// Limits: control and chunk data up to FrameLimits each (1 MiB); a length beyond is TooLarge before
// allocation. The zero bytes are checked (Malformed), so that they can mean something one day. Versioning:
// the ALPN name "fedllm/1" names this grammar; another grammar is another name. Hello carries the version of
// the messages.
//
// Why not Protobuf, gRPC or HTTP/2 for tensors: they copy and buffer the payload, cap it at 2 GiB, and
// amplify hostile input; here one buffer, read once, goes to all sockets. Why 8 bytes of header: the body of
// a frame in an aligned buffer stays aligned. Why offsets in every chunk: order is checked and not assumed,
// and a resumed transfer says where it goes on.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "common/base/result.hpp"
#include "common/protocol/limits.hpp"

namespace fedllm::protocol {

inline constexpr std::string_view kAlpn = "fedllm/1";
inline constexpr std::uint32_t kProtocolVersion = 1;  // of the messages, told in Hello
inline constexpr std::size_t kFrameHeaderBytes = 8;
inline constexpr std::size_t kChunkPrefixBytes = 8;

enum class FrameKind : std::uint8_t { Control = 1, Chunk = 2 };

struct FrameHeader {
    FrameKind kind = FrameKind::Control;
    std::uint32_t body_bytes = 0;  // what follows the header; for a chunk it includes the offset

    bool operator==(const FrameHeader&) const = default;
};

// A decoded frame. `bytes` borrows the buffer it was decoded from.
struct Frame {
    FrameKind kind = FrameKind::Control;
    std::uint64_t offset = 0;          // chunks only
    std::span<const std::byte> bytes;  // the serialized message, or the chunk's data
};

// Checks everything that can be checked before the body is there: kind, zero bytes, limits.
Result<FrameHeader> decode_header(std::span<const std::byte, kFrameHeaderBytes> bytes,
                                  const FrameLimits& limits);

// `body` has exactly header.body_bytes bytes.
Result<Frame> decode_body(const FrameHeader& header, std::span<const std::byte> body);

// Incremental: takes one frame off the front of `input`; nothing when more bytes are needed. An error is
// final.
Result<std::optional<Frame>> take_frame(std::span<const std::byte>& input, const FrameLimits& limits);

// The bytes in front of a control message of `message_bytes`, and in front of a chunk's data.
std::array<std::byte, kFrameHeaderBytes> control_head(std::size_t message_bytes);
std::array<std::byte, kFrameHeaderBytes + kChunkPrefixBytes> chunk_head(std::uint64_t offset,
                                                                        std::size_t data_bytes);

// Whole frames, for tests and simulated worlds.
std::vector<std::byte> encode_control(std::span<const std::byte> message);
std::vector<std::byte> encode_chunk(std::uint64_t offset, std::span<const std::byte> data);

static_assert(sizeof(FrameKind) == 1 && sizeof(control_head(1)) == 8 && sizeof(chunk_head(0, 1)) == 16);

}  // namespace fedllm::protocol
