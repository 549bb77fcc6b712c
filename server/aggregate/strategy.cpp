#include "server/aggregate/strategy.hpp"

#include "common/base/result.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "server/aggregate/strategy.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fedllm::server::aggregate {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// A product and a sum, each rounded: a fused one would give other bits where the machine has it.
void AddScaled(float* HWY_RESTRICT global, const float* HWY_RESTRICT update, std::size_t count,
               double factor) {
    std::size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
    const hn::ScalableTag<double> d;
    const hn::Rebind<float, decltype(d)> df;
    const auto factors = hn::Set(d, factor);
    for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
        const auto change = hn::Mul(factors, hn::PromoteTo(d, hn::LoadU(df, update + i)));
        const auto sum = hn::Add(hn::PromoteTo(d, hn::LoadU(df, global + i)), change);
        hn::StoreU(hn::DemoteTo(df, sum), df, global + i);
    }
#endif
    for (; i < count; ++i) {
        global[i] = static_cast<float>(static_cast<double>(global[i]) + factor * update[i]);
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::server::aggregate
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::server::aggregate {

HWY_EXPORT(AddScaled);

void fed_avg(std::span<float> global, std::span<const float> mean_update, double learning_rate) {
    FEDLLM_CHECK(global.size() == mean_update.size());
    HWY_DYNAMIC_DISPATCH(AddScaled)(global.data(), mean_update.data(), global.size(), learning_rate);
}

}  // namespace fedllm::server::aggregate
#endif
