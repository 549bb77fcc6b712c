#include "common/tensor/dtype.hpp"

#include <array>

#include "common/base/result.hpp"

namespace fedllm::tensor {
namespace {

struct Row {
    DType dtype;
    std::string_view name;
    std::size_t bytes;
};
constexpr std::array<Row, 10> kRows{{{DType::F64, "F64", 8},
                                     {DType::F32, "F32", 4},
                                     {DType::F16, "F16", 2},
                                     {DType::BF16, "BF16", 2},
                                     {DType::I64, "I64", 8},
                                     {DType::I32, "I32", 4},
                                     {DType::I16, "I16", 2},
                                     {DType::I8, "I8", 1},
                                     {DType::U8, "U8", 1},
                                     {DType::Bool, "BOOL", 1}}};

const Row& row(DType dtype) {
    for (const Row& candidate : kRows) {
        if (candidate.dtype == dtype) return candidate;
    }
    check_failed("dtype is in the table", __FILE__, __LINE__, "");
}

}  // namespace

std::size_t size_of(DType dtype) { return row(dtype).bytes; }
std::string_view name(DType dtype) { return row(dtype).name; }

std::optional<DType> dtype_named(std::string_view wanted) {
    for (const Row& candidate : kRows) {
        if (candidate.name == wanted) return candidate.dtype;
    }
    return std::nullopt;
}

float f16_to_f32(std::uint16_t bits) {
    const std::uint32_t sign = std::uint32_t{bits & 0x8000u} << 16;
    const std::uint32_t exponent = (bits >> 10) & 0x1Fu;
    const std::uint32_t mantissa = bits & 0x3FFu;
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | (mantissa << 13));
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

std::uint16_t f32_to_f16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
    const float magnitude = std::abs(value);
    std::uint32_t half = 0x7E00u;  // NaN
    if (magnitude >= 65520.0f) {
        half = 0x7C00u;
    } else if (magnitude < 0x1p-14f) {
        half = static_cast<std::uint32_t>(std::nearbyint(magnitude * 0x1p24f));
    } else if (!std::isnan(value)) {
        const std::uint32_t rest = bits & 0x7FFFFFFFu;
        half = ((rest + 0xFFFu + ((rest >> 13) & 1u)) >> 13) - (112u << 10);
    }
    return static_cast<std::uint16_t>(sign | half);
}

}  // namespace fedllm::tensor
