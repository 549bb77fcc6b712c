#include "server/ingest/scan.hpp"

#include <cmath>
#include <cstddef>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "server/ingest/scan.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fedllm::server::ingest {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

Scan ScanValues(const float* HWY_RESTRICT values, std::size_t count, double bound) {
    Scan result;
    std::size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
    const hn::ScalableTag<double> d;
    const hn::Rebind<float, decltype(d)> df;
    const std::size_t lanes = hn::Lanes(d);
    const auto most = hn::Set(d, bound);
    // Two sums, so that an addition need not wait for the one before it. NaN compares as not within.
    auto even = hn::Zero(d), odd = hn::Zero(d);
    auto within = hn::Eq(even, even);
    for (; i + 2 * lanes <= count; i += 2 * lanes) {
        const auto a = hn::PromoteTo(d, hn::LoadU(df, values + i));
        const auto b = hn::PromoteTo(d, hn::LoadU(df, values + i + lanes));
        even = hn::MulAdd(a, a, even);
        odd = hn::MulAdd(b, b, odd);
        within = hn::And(within, hn::And(hn::Le(hn::Abs(a), most), hn::Le(hn::Abs(b), most)));
    }
    result.square_sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
    result.within = hn::AllTrue(d, within);
#endif
    for (; i < count; ++i) {
        const double value = values[i];
        result.square_sum += value * value;
        result.within &= std::abs(value) <= bound;
    }
    return result;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::server::ingest
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::server::ingest {

namespace {
HWY_EXPORT(ScanValues);
}

Scan scan(std::span<const float> values, double bound) {
    return HWY_DYNAMIC_DISPATCH(ScanValues)(values.data(), values.size(), bound);
}

}  // namespace fedllm::server::ingest
#endif
