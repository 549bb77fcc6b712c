#include "common/tensor/fixed_point.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace fedllm::tensor {
namespace {

// The largest n with value * 2^n <= 2^limit, for a finite value > 0.
int doublings_within(double value, int limit) {
    const int n = limit - std::ilogb(value);
    return std::ldexp(value, n) > std::ldexp(1.0, limit) ? n - 1 : n;
}

}  // namespace

Result<FixedPoint> FixedPoint::choose(double value_bound, double weight_total_max, SumBits sums) {
    if (!std::isfinite(value_bound) || value_bound <= 0 || !(weight_total_max >= 1) ||
        !std::isfinite(weight_total_max)) {
        return make_error(Errc::InvalidArgument,
                          "the exact sum needs a positive value bound and a total weight of at least 1");
    }
    const int sum_bits = static_cast<int>(sums);
    const int sum_limit = sums == SumBits::Bits64 ? 61 : 30;
    const int bits = std::min({doublings_within(value_bound * weight_total_max, sum_limit),
                               doublings_within(value_bound, 50), kFractionBitsMax});
    if (bits < kFractionBitsMin) {
        return make_error(Errc::InvalidArgument,
                          "the exact " + std::to_string(sum_bits) + "-bit sum would keep " +
                              std::to_string(bits) + " fraction bits, fewer than " +
                              std::to_string(kFractionBitsMin) + ": bound x weights is too large");
    }
    return FixedPoint{bits};
}

double FixedPoint::scale() const { return std::ldexp(1.0, fraction_bits); }

}  // namespace fedllm::tensor
