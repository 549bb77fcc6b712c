// The fixed-point scale of the exact sum: the one rule that the job's check, the server's accumulator and,
// later, the masks of secure aggregation share.
#pragma once

#include <cstdint>

#include "common/base/result.hpp"

namespace fedllm::tensor {

// The integers that sums are kept in. Half of them is half the memory, where the bound and the weights of a
// job leave 32 bits enough fraction.
enum class SumBits : std::uint8_t { Bits32 = 32, Bits64 = 64 };

// A value v is counted as the integer nearest to v * 2^fraction_bits, ties to even.
struct FixedPoint {
    int fraction_bits = 0;

    // The finest scale such that the weighted sum of any values within value_bound, of any contributions
    // whose weights add up to at most weight_total_max, stays below 2^62 (2^31): bound * 2^bits * weights <=
    // 2^61 (2^30; half the range is left for each term's rounding), and bound * 2^bits <= 2^50 (so that a
    // double holds a term exactly and rounding is one addition). InvalidArgument when fewer than
    // kFractionBitsMin bits remain.
    static Result<FixedPoint> choose(double value_bound, double weight_total_max,
                                     SumBits sums = SumBits::Bits64);

    double scale() const;  // 2^fraction_bits
    bool operator==(const FixedPoint&) const = default;

    static constexpr int kFractionBitsMin = 24;
    static constexpr int kFractionBitsMax = 100;
};

// What is checked against a job's clip norm: clients compute the norm in their own order, so the server
// allows this much more before it calls a value out of bounds, and the scale is chosen for it.
constexpr double kClipSlack = 1e-4;
inline double bound_with_slack(double clip_norm) { return clip_norm * (1.0 + kClipSlack); }

}  // namespace fedllm::tensor
