// The bits of the entropy coder: range asymmetric numeral systems (Duda, arXiv:1311.2540), 32 interleaved
// states of 32 bits, 16 bits at a time, frequencies of 12 bits. A lane is a thread of a warp, or an element
// of a vector.
//
//   stream = state u32 * 32 | word u16 *
//
// Symbols come in rows of 32, symbol i of a row through lane i; the last row of a run (deadzone.hpp) may be
// short. Decoding a row: each lane takes slot = state mod 2^12, the symbol whose range [start, start +
// frequency) holds it, and state = frequency * (state / 2^12) + slot - start. Then the lanes whose state fell
// below 2^16 take the next words of the stream in ascending order of lanes: state = state * 2^16 + word.
// After the last row every state is 2^16 and every word is taken. The encoder does the same backwards,
// starting from states of 2^16.
#pragma once

#include <cstdint>

#include "common/codec/host_device.hpp"

namespace fedllm::codec::rans {

constexpr unsigned kProbabilityBits = 12;
constexpr std::uint32_t kTotal = 1u << kProbabilityBits;  // frequencies add up to this
constexpr unsigned kLanes = 32;
constexpr std::uint32_t kStateMin = 1u << 16;
constexpr unsigned kWordBits = 16;

// What the encoder needs of a symbol. Multiplying by the reciprocal gives the quotient or one less.
struct Symbol {
    std::uint32_t frequency = 0;  // 1 to kTotal
    std::uint32_t start = 0;
    std::uint32_t reciprocal = 0;
};

FEDLLM_HOST_DEVICE constexpr Symbol symbol(std::uint32_t frequency, std::uint32_t start) {
    const std::uint64_t whole = std::uint64_t{1} << 32;
    return {frequency, start, static_cast<std::uint32_t>(frequency == 1 ? whole - 1 : whole / frequency)};
}

// Whether the lane must give up its low word before it takes the symbol: exactly when the new state would not
// fit.
FEDLLM_HOST_DEVICE constexpr bool must_emit(std::uint32_t state, std::uint32_t frequency) {
    return (state >> (32 - kProbabilityBits)) >= frequency;
}

FEDLLM_HOST_DEVICE constexpr std::uint32_t put(std::uint32_t state, const Symbol& s) {
    auto quotient = static_cast<std::uint32_t>((std::uint64_t{state} * s.reciprocal) >> 32);
    std::uint32_t rest = state - quotient * s.frequency;
    if (rest >= s.frequency) {
        ++quotient;
        rest -= s.frequency;
    }
    return (quotient << kProbabilityBits) + s.start + rest;
}

// One entry per slot, in one word: frequency (12 bits), slot - start (12 bits), the symbol's number (8 bits).
// A frequency of 2^12 has no entry: such a run has no payload.
FEDLLM_HOST_DEVICE constexpr std::uint32_t slot_entry(std::uint32_t frequency, std::uint32_t slot_in_range,
                                                      std::uint32_t number) {
    return frequency | slot_in_range << 12 | number << 24;
}
FEDLLM_HOST_DEVICE constexpr std::uint32_t slot_of(std::uint32_t state) { return state & (kTotal - 1); }
FEDLLM_HOST_DEVICE constexpr std::uint32_t take(std::uint32_t state, std::uint32_t entry) {
    return (entry & 0xFFF) * (state >> kProbabilityBits) + ((entry >> 12) & 0xFFF);
}
FEDLLM_HOST_DEVICE constexpr std::uint32_t number_of(std::uint32_t entry) { return entry >> 24; }

}  // namespace fedllm::codec::rans
