// The bits of `deadzone`: a uniform quantiser with a dead zone and one global step, a static table per group,
// rANS.
//
// Quantiser. step = f32(min(spec.step * rms, largest)), so that something is always sent; with spec.bits > 0
// the step is searched for instead (deadzone_codec.cpp), which is the encoder's affair: the step is in the
// bytes. A value x becomes the level sign(x) * m with t = |x| * (1 / step) in f32, m = 0 where t < 0.55, else
// min(127, floor(t + 0.5)). What saturates or is rounded away is left to error feedback. rms = sqrt(sum /
// elements) in double, sum = the sum in order of the sums of blocks of 4096 values; a block's sum is that of
// 32 lanes, folded 16, 8, 4, 2, 1 apart (lane i takes lane i + 16, ...), and lane i adds the exact squares of
// elements i, i + 32, ... of the block in order. A rms that makes the step less than 2^-100 counts as 0.
//
// Tables. A group's symbols are the levels -M to M, ordered 0, +1, -1, +2, -2, ...; +m and -m have one
// frequency, as the signs of deltas carry no information. The value of a level is (256 m + offset[min(m, 4)])
// * (step / 256) with its sign: the offset moves it to the mean of what was rounded to m (4 and more share
// one).
//
//   parameters = step f32 | tables                  (step 0: all values are zero; no tables, no segments)
//   tables     = bits, lowest first, of all groups in order, filled up with zeros to a byte:
//                M (8 bits) | gamma(frequency[m]) for m = 1..M | offset[m] + 128 (8 bits) for m = 1..min(M,
//                4)
//   gamma(n)   = w zeros, a one, and the low w bits of n + 1, where w = floor(log2(n + 1))
//
// frequency[M] > 0, 2 * (frequency[1] + ... + frequency[M]) <= 4096, and frequency[0] is what is missing to
// 4096. A group that is zero throughout (M = 0: a frozen A) takes 8 bits here and nothing in the segments; a
// segment of nothing else is left out. A typical table takes 12 bytes: 14 groups are 2 % of a 9 KB update.
//
// Payload of a segment: one rANS stream (rans.hpp) over its values in order, without those of groups with M =
// 0. Rows begin anew with each run of the layout, and with the segment.
//
// Worked example: 4 values 0, 3, 0, -3 in one group at step 1: rms = 4.5^0.5 = 2.1213, levels 0 1 0 -1, t - m
// = 0.41421, offset 106. M = 1, frequency[1] = 1024, frequency[0] = 2048. Tables: 01 | 10 zeros, 1,
// 0000000001 (1025 = 2^10 + 1) | EA: bytes 01 00 0C 40 1D. See DeadzoneFormat.WorkedExample in
// tests/common/codec for all bytes.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/base/result.hpp"
#include "common/codec/bit_stream.hpp"
#include "common/codec/host_device.hpp"
#include "common/codec/rans.hpp"

namespace fedllm::codec::deadzone {

constexpr int kLevelMax = 127;
// Of a step. Measured on six deltas of real adapters, at equal entropy from 0.3 to 3 bits: within 3 % of the
// error of the best of eleven thresholds between 0.2 and 0.9. 0.7 costs up to 19 % more at 2 bits, at most 3
// % below 0.75.
constexpr float kThreshold = 0.55f;
constexpr int kOffsetsPerStep = 256;
constexpr std::size_t kOffsets = 4;  // of |level| 1, 2, 3, and 4 or more
constexpr std::size_t kSquareBlock = 4096;
constexpr float kStepMin = 0x1p-100f;  // so that 1 / step and step / 256 are exact enough and never subnormal
constexpr float kStepMax = 0x1p120f;   // so that every level is finite

FEDLLM_HOST_DEVICE inline int magnitude_of(float steps) {
    return steps < kThreshold ? 0 : static_cast<int>(std::fmin(steps + 0.5f, static_cast<float>(kLevelMax)));
}
FEDLLM_HOST_DEVICE inline int level_of(float value, float inverse_step) {
    const int magnitude = magnitude_of(std::fabs(value) * inverse_step);
    return value < 0 ? -magnitude : magnitude;
}
// How far |value| is from its level, in 256ths of a step, rounded down: its sums over a group are integers,
// so that their order does not matter. Down, here and in make_table(), so that the decoded update is no
// longer than the original even where all values are equal: a client that has clipped its update is not
// refused for rounding.
FEDLLM_HOST_DEVICE inline int offset_of(float value, float inverse_step, int magnitude) {
    const float away = (std::fabs(value) * inverse_step - static_cast<float>(magnitude)) * kOffsetsPerStep;
    return static_cast<int>(std::floor(std::fmax(-128.0f, std::fmin(away, 127.0f))));
}
FEDLLM_HOST_DEVICE constexpr std::size_t offset_class(int magnitude) {  // of a magnitude > 0
    return static_cast<std::size_t>(magnitude < 4 ? magnitude - 1 : 3);
}

// What the encoder counts of a group; integers.
struct Statistics {
    std::array<std::uint64_t, kLevelMax + 1> counts{};  // by |level|
    std::array<std::int64_t, kOffsets> offset_sums{};
};

struct Table {
    int magnitude_max = 0;                                 // M
    std::array<std::uint16_t, kLevelMax + 1> frequency{};  // by |level|
    std::array<std::int8_t, kOffsets> offset{};
    bool operator==(const Table&) const = default;

    std::uint32_t start(int level) const;
    float value(int level, float step) const;
};

Table make_table(const Statistics& statistics);
std::vector<std::byte> write_parameters(float step, std::span<const Table> tables);
std::uint64_t parameter_bytes_most(std::uint32_t groups);

struct Parameters {
    float step = 0;
    std::vector<Table> tables;  // one per group, or none with a step of 0
};
Result<Parameters> read_parameters(std::span<const std::byte> bytes, std::uint32_t groups);

// A table as the coders use it, by level + 128.
struct EncodeTable {
    std::array<std::uint32_t, 256> range{};  // frequency | start << 16
    std::array<std::uint32_t, 256> reciprocal{};
};
struct DecodeTable {
    std::array<std::uint32_t, rans::kTotal> slots{};
    std::array<float, 256> values{};
};
constexpr int kLevelBias = 128;
void expand(const Table& table, EncodeTable& out);
void expand(const Table& table, float step, DecodeTable& out);

}  // namespace fedllm::codec::deadzone
