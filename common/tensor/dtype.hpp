// Element types, with the names safetensors gives them.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace fedllm::tensor {

enum class DType : std::uint8_t { F64, F32, F16, BF16, I64, I32, I16, I8, U8, Bool };

std::size_t size_of(DType dtype);    // bytes per element
std::string_view name(DType dtype);  // "F32"
std::optional<DType> dtype_named(std::string_view name);

// bf16 is the upper half of an f32; rounding is to nearest, ties to even. NaN stays NaN.
inline float bf16_to_f32(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
inline std::uint16_t f32_to_bf16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if (std::isnan(value)) return static_cast<std::uint16_t>((bits >> 16) | 0x0040u);
    return static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}
// IEEE 754 binary16, subnormals included; rounding to nearest, ties to even, infinity from 65520 on.
float f16_to_f32(std::uint16_t bits);
std::uint16_t f32_to_f16(float value);

}  // namespace fedllm::tensor
