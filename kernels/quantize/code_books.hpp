// The code books of bitsandbytes' 4-bit types, and where an encoder changes from one code to the next.
// Source: bitsandbytes 0.50 (functional.get_4bit_type; the pure reference of quantize_4bit); NF4 is
// Dettmers et al. 2023, QLoRA, appendix E. A byte holds two codes, the even element in its high nibble.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace fedllm::kernels {

constexpr std::size_t kFourBitCodes = 16;

// value = kNf4Values[code] * absmax of the block, both f32, rounded once.
inline constexpr std::array<float, kFourBitCodes> kNf4Values{
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

// Two exponent bits, one of mantissa; bit 3 is the sign. Code 8 is a second +0, never -0.
inline constexpr std::array<float, kFourBitCodes> kFp4Values{
    0.0f,
    0.0052083334885537624f,
    0.6666666865348816f,
    1.0f,
    0.3333333432674408f,
    0.5f,
    0.1666666716337204f,
    0.25f,
    0.0f,
    -0.0052083334885537624f,
    -0.6666666865348816f,
    -1.0f,
    -0.3333333432674408f,
    -0.5f,
    -0.1666666716337204f,
    -0.25f,
};

// The codes in ascending order of value: NF4's are sorted already. Of FP4's two zeros 0 comes first.
inline constexpr std::array<std::uint8_t, kFourBitCodes> kNf4Order{0, 1, 2,  3,  4,  5,  6,  7,
                                                                   8, 9, 10, 11, 12, 13, 14, 15};
inline constexpr std::array<std::uint8_t, kFourBitCodes> kFp4Order{11, 10, 13, 12, 15, 14, 9, 0,
                                                                   8,  1,  6,  7,  4,  5,  2, 3};

// An encoder's code is order[how many thresholds are strictly below the scaled value]. Thresholds are the f32
// midpoints (a + b) / 2 of neighbours in `order`. The literals of bitsandbytes' CUDA encoder are these within
// a unit in the last place (NF4) or five digits (FP4).
constexpr std::array<float, kFourBitCodes - 1> four_bit_thresholds(
    const std::array<float, kFourBitCodes>& values, const std::array<std::uint8_t, kFourBitCodes>& order) {
    std::array<float, kFourBitCodes - 1> thresholds{};
    for (std::size_t i = 0; i + 1 < kFourBitCodes; ++i) {
        thresholds[i] = (values[order[i]] + values[order[i + 1]]) / 2.0f;
    }
    return thresholds;
}
inline constexpr auto kNf4Thresholds = four_bit_thresholds(kNf4Values, kNf4Order);
inline constexpr auto kFp4Thresholds = four_bit_thresholds(kFp4Values, kFp4Order);

}  // namespace fedllm::kernels
