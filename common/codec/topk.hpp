// The bits of `topk`: the largest magnitudes of the whole update and where they are; the rest is zero.
//
// Selected are the k = max(1, floor(density * elements)) values of largest magnitude; among equals the lowest
// index wins; zeros are never selected.
//
//   parameters = values u8 (0: bf16, 1: int4) | zero u8 * 3
//   payload    = count u32 | shift u8 | gaps | the selected values in order, as a segment of bf16 or int4
//   (blocks.hpp) gaps       = bits, lowest first, filled up with zeros to a byte: for each selected value
//                rice(index in the segment - 1 - index of the one before), the first one's before being -1
//   rice(n)    = n >> shift ones, a zero, the low `shift` bits of n
//
// shift (0..17) is the one that makes the gaps shortest, the lowest of equals. The gaps of a segment of n
// values take at most n bits.
//
// Worked example: 0, 0, 3, 0, -1, 0 with two selected as bf16: gaps 2 and 1. shift 0: 110 10, shift 1: 10 0,
// 0 1 are 5 bits: shift 0 is taken. Bits in order 1 1 0 1 0: 0B. Payload 02 00 00 00 | 00 | 0B | 40 40 | 80
// BF.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/codec/codec.hpp"
#include "common/codec/segments.hpp"

namespace fedllm::codec::topk {

constexpr std::size_t kParameterBytes = 4;
constexpr std::size_t kCountBytes = 5;  // count and shift
constexpr unsigned kShiftMax = 17;

// k, but not more than there are.
inline std::uint64_t selected_of(const Spec& spec, std::uint64_t elements) {
    const auto wanted = static_cast<std::uint64_t>(spec.density * static_cast<double>(elements));
    return std::min(std::max<std::uint64_t>(1, wanted), elements);
}
inline std::array<std::byte, kParameterBytes> parameters_of(const Spec& spec) {
    return {static_cast<std::byte>(spec.topk_values), std::byte{}, std::byte{}, std::byte{}};
}

Result<std::vector<std::byte>> encode(const Spec& spec, const Layout& layout, std::span<const float> values);

ByteRange segment_bytes(std::uint64_t count);  // with its head

Result<TopKValues> read_parameters(std::span<const std::byte> parameters);
Result<void> decode_segment(TopKValues kind, const Segment& segment, const Sink& sink);

}  // namespace fedllm::codec::topk
