// The bits of `int8`, `int4` and `sign`: blocks of 64 values with a scale, and of `bf16`, which needs none.
//
//   update  = container without parameters; payload of a segment = block*, of 64 values, the last one what
//   remains bf16    : value u16 *                             nearest even; beyond the largest finite one:
//   that one int8    : scale bf16 | q i8 *                     value = q * scale, q = -127..127 int4    :
//   scale bf16 | two values a byte *        value = (n - 8) * scale, n = 1..15; the first value is the low
//                                                     nibble; an odd last value has a high nibble of 0
//   sign    : scale bf16 | eight values a byte *      value = scale, or -scale where the bit is 1; the first
//   is the
//                                                     lowest bit; bits beyond the last value are 0
//
// int8, int4: scale is max|x| / 127 (or 7) in f32, rounded up to bf16; q = rint(x * (1 / scale)) (nearest
// even), or with stochastic rounding floor(x * (1 / scale) + u), u = w * 2^-24, w the upper 24 bits of word
// (e mod 4) of philox4x32(counter {e / 4 low, e / 4 high, 0, 0x434F4445}, key) for element e of the update;
// then held within the range. Scales below 2^-100 count as 0, scales end at 2^120. sign: the mean of |x|,
// added in double in order, nearest even. Decoders refuse scales that are negative or above 2^120, so values
// are finite.
//
// Worked example: 1, -2, 0.5 as int4: 2 / 7 = 0.28571 -> bf16 0.287109375 (93 3E); q = 3, -7, 2: n = 11, 1,
// 10: payload 93 3E 1B 0A. As sign: mean 1.1667 -> bf16 1.1640625 (95 3F), bits 0 1 0: payload 95 3F 02.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/base/philox.hpp"
#include "common/codec/codec.hpp"
#include "common/codec/host_device.hpp"
#include "common/codec/segments.hpp"

namespace fedllm::codec::blocks {

constexpr std::uint64_t kBlockValues = 64;
constexpr std::uint16_t kScaleMax = 0x7B80;  // 2^120 in bf16
constexpr float kScaleMin = 0x1p-100f;
constexpr std::uint16_t kLargestBf16 = 0x7F7F;  // finite
constexpr int kInt8Levels = 127;
constexpr int kInt4Levels = 7;
constexpr int kInt4Bias = 8;

FEDLLM_HOST_DEVICE inline std::uint16_t bf16_nearest(float value) {  // of a finite value
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const auto rounded = static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
    return (rounded & 0x7FFFu) > kLargestBf16 ? static_cast<std::uint16_t>(rounded - 1) : rounded;
}
FEDLLM_HOST_DEVICE inline float bf16_value(std::uint16_t bits) {
    return std::bit_cast<float>(std::uint32_t{bits} << 16);
}
// The scale of a block whose largest magnitude is given, for q up to `levels`.
FEDLLM_HOST_DEVICE inline std::uint16_t scale_up(float largest, int levels) {
    const float exact = largest / static_cast<float>(levels);
    if (exact < kScaleMin) return 0;
    const std::uint32_t up = (std::bit_cast<std::uint32_t>(exact) + 0xFFFFu) >> 16;
    return static_cast<std::uint16_t>(up < kScaleMax ? up : kScaleMax);
}
FEDLLM_HOST_DEVICE inline float uniform_of(std::uint64_t key, std::uint64_t element) {
    const auto words = philox4x32(
        {static_cast<std::uint32_t>(element >> 2), static_cast<std::uint32_t>(element >> 34), 0, 0x434F4445u},
        {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)});
    return static_cast<float>(words[element & 3] >> 8) * 0x1p-24f;
}
// inverse: 1 / scale, or 0 for a scale of 0.
FEDLLM_HOST_DEVICE inline int level_nearest(float value, float inverse, int levels) {
    const auto most = static_cast<float>(levels);
    return static_cast<int>(std::fmax(-most, std::fmin(std::rint(value * inverse), most)));
}
FEDLLM_HOST_DEVICE inline int level_stochastic(float value, float inverse, int levels, float uniform) {
    const auto most = static_cast<float>(levels);
    return static_cast<int>(std::fmax(-most, std::fmin(std::floor(value * inverse + uniform), most)));
}

// What rounding needs besides the values: the key, and where in the update they are.
struct Draw {
    Rounding rounding = Rounding::Nearest;
    std::uint64_t key = 0;
    std::uint64_t first_element = 0;
};

// One block, or of bf16 any number of values, appended or read; `codec` is Bf16, Int8, Int4 or Sign.
void append_block(std::vector<std::byte>& bytes, CodecId codec, std::span<const float> values,
                  const Draw& draw);
std::uint64_t block_bytes(CodecId codec, std::uint64_t values);
// What is wrong with the block, or nothing. `bytes` has block_bytes(values.size()).
const char* read_block(CodecId codec, std::span<const std::byte> bytes, std::span<float> values);

Result<std::vector<std::byte>> encode(const Spec& spec, const Layout& layout, std::span<const float> values,
                                      std::uint64_t key);
std::uint64_t payload_bytes(CodecId codec, std::uint64_t count);
Result<void> decode_segment(CodecId codec, const Segment& segment, const Sink& sink);

}  // namespace fedllm::codec::blocks
