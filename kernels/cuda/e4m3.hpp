// FP8 of four exponent and three fraction bits, as the host makes it for the emulation: no infinities, the
// largest value 448.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace fedllm::kernels::cuda {

constexpr float kE4m3Max = 448.0f;

// To the nearest, ties to even; beyond 448: 448. What PTX's cvt.rn.satfinite.e4m3x2.f32 gives.
inline std::uint8_t narrow_e4m3(float value) {
    constexpr std::uint32_t kLargest = 0x7E, kNan = 0x7F;
    constexpr float kSmallestNormal = 1.0f / 64, kStepsPerUnit = 512;  // of subnormals
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t size = bits & 0x7FFFFFFF, sign = bits >> 24 & 0x80;
    if (size > 0x7F800000) return kNan;
    const float absolute = std::bit_cast<float>(size);
    if (absolute < kSmallestNormal)
        return static_cast<std::uint8_t>(sign |
                                         static_cast<std::uint32_t>(std::lrint(absolute * kStepsPerUnit)));
    const std::uint32_t rounded = (size + 0x7FFFF + (size >> 20 & 1)) >> 20;
    constexpr std::uint32_t kBias = (127 - 7) << 3;
    return static_cast<std::uint8_t>(sign | std::min(rounded - kBias, kLargest));
}

}  // namespace fedllm::kernels::cuda
