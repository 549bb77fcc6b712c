#include "server/aggregate/accumulator.hpp"

#include <algorithm>
#include <bit>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "server/aggregate/accumulator.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fedllm::server::aggregate {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// Adding 1.5 * 2^52 to a double of magnitude up to 2^51 leaves the nearest integer (ties to even) in its low
// mantissa bits: rounding and conversion in one addition, which vectorises everywhere, unlike llrint.
constexpr double kRound = 0x1.8p52;

std::uint64_t to_fixed(float value, double scale) {
    const double shifted = static_cast<double>(value) * scale + kRound;
    return std::bit_cast<std::uint64_t>(shifted) - std::bit_cast<std::uint64_t>(kRound);
}

// A negative weight, modulo 2^64, withdraws.
void AddWeighted(std::uint64_t* sums, const float* values, std::size_t count, std::uint64_t weight,
                 double scale) {
    std::size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
    const hn::ScalableTag<double> d;
    const hn::RebindToUnsigned<decltype(d)> du;
    const hn::Rebind<float, decltype(d)> df;
    const auto round = hn::Set(d, kRound), scales = hn::Set(d, scale);
    const auto weights = hn::Set(du, weight);
    for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
        const auto wide = hn::PromoteTo(d, hn::LoadU(df, values + i));
        const auto shifted = hn::Add(hn::Mul(wide, scales), round);
        const auto fixed = hn::Sub(hn::BitCast(du, shifted), hn::BitCast(du, round));
        hn::StoreU(hn::Add(hn::LoadU(du, sums + i), hn::Mul(fixed, weights)), du, sums + i);
    }
#endif
    for (; i < count; ++i) sums[i] += to_fixed(values[i], scale) * weight;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::server::aggregate
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::server::aggregate {

HWY_EXPORT(AddWeighted);

Accumulator::Accumulator(std::uint64_t elements, FixedPoint scale) : sums_(elements), scale_(scale) {}

void Accumulator::add(std::uint64_t first_element, std::span<const float> values, std::uint64_t weight) {
    FEDLLM_CHECK(first_element <= sums_.size() && values.size() <= sums_.size() - first_element);
    HWY_DYNAMIC_DISPATCH(AddWeighted)
    (sums_.data() + first_element, values.data(), values.size(), weight, scale_.scale());
}

void Accumulator::subtract(std::uint64_t first_element, std::span<const float> values, std::uint64_t weight) {
    add(first_element, values, std::uint64_t{0} - weight);
}

void Accumulator::clear() { std::fill(sums_.begin(), sums_.end(), 0); }

void Accumulator::mean(std::uint64_t first_element, std::span<float> out, std::uint64_t total_weight) const {
    FEDLLM_CHECK(total_weight > 0);
    FEDLLM_CHECK(first_element <= sums_.size() && out.size() <= sums_.size() - first_element);
    const double divisor = scale_.scale() * static_cast<double>(total_weight);
    const std::uint64_t* const sum = sums_.data() + first_element;
    for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = static_cast<float>(static_cast<double>(static_cast<std::int64_t>(sum[i])) / divisor);
    }
}

}  // namespace fedllm::server::aggregate
#endif
