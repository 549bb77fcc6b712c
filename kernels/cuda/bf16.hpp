// bf16 as CUDA bodies and their callers store it. The conversions are the device's, in device_code.cuh, and
// the same on the host, here.
#pragma once

#include <bit>
#include <cstdint>

namespace fedllm::kernels::cuda {

struct BF16 {
    std::uint16_t bits = 0;
};

inline float widen(BF16 value) { return std::bit_cast<float>(std::uint32_t{value.bits} << 16); }

// To the nearest, ties to even; a NaN stays one.
inline BF16 narrow(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return {static_cast<std::uint16_t>(bits >> 16 | 0x40)};
    return {static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};
}

}  // namespace fedllm::kernels::cuda
