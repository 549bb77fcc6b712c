// The container of every codec but `none`, version 1. Little-endian; no padding anywhere.
//
//   update    = header segment*
//   header    = magic "FLCU" | version u8 = 1 | codec u8 | groups u16 | elements u64 | parameter_bytes u32
//               | parameters | crc32c u32 of all of the header before it
//   segment   = payload_bytes u32 | crc32c u32 of the payload | payload
//
// Segment s holds elements [s * 2^17, (s + 1) * 2^17), the last one what remains, and can be decoded without
// the others. A codec may leave out segments whose values follow from the header (deadzone: all zero).
// Parameters and payloads belong to the codec. groups and elements must be the layout's.
//
// Why 2^17 values: a deadzone segment ends with 128 bytes of coder state, of which 96 tell nothing. At 0.7
// bits per value that is 0.8 % of the segment's 11.5 KB (1.7 % at 2^16), an 8B model's rank-16 adapter still
// has 320 of them to spread over a GPU, and a decoder holds at most 262 KB.
//
// Versioning: any change of these bytes is a new version; a reader refuses versions it does not know.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "common/base/result.hpp"
#include "common/codec/codec.hpp"

namespace fedllm::codec {

constexpr std::uint8_t kContainerVersion = 1;
constexpr std::size_t kPreludeBytes = 20;  // the header up to the parameters
constexpr std::size_t kCrcBytes = 4;
constexpr std::size_t kSegmentHeadBytes = 8;
constexpr std::uint64_t kSegmentValues = std::uint64_t{1} << 17;

inline std::uint64_t segments_of(std::uint64_t elements) {
    return (elements + kSegmentValues - 1) / kSegmentValues;
}

template <class T>
void append_number(std::vector<std::byte>& bytes, T value) {
    const std::size_t at = bytes.size();
    bytes.resize(at + sizeof(T));
    std::memcpy(bytes.data() + at, &value, sizeof(T));
}
template <class T>
T read_number(std::span<const std::byte> bytes, std::size_t at) {
    T value{};
    std::memcpy(&value, bytes.subspan(at, sizeof(T)).data(), sizeof(T));
    return value;
}

void append_header(std::vector<std::byte>& bytes, CodecId codec, const Layout& layout,
                   std::span<const std::byte> parameters);

// Leaves room for the head of a segment; the payload is appended after it, and end_segment() fills in the
// rest.
std::size_t begin_segment(std::vector<std::byte>& bytes);
void end_segment(std::vector<std::byte>& bytes, std::size_t begun);

// parameter_bytes, once codec, version, groups and elements are those expected and the size is within bounds.
Result<std::uint32_t> check_prelude(std::span<const std::byte> prelude, CodecId codec, const Layout& layout,
                                    std::uint64_t parameter_bytes_most);

}  // namespace fedllm::codec
