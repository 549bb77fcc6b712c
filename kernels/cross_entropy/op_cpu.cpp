#include "kernels/cross_entropy/op.hpp"

#include <algorithm>
#include <cmath>

#include "common/base/result.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cross_entropy/op_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {
namespace {

float MaxOfRow(const float* row, std::size_t count) {
    const Floats d;
    const std::size_t lanes = hn::Lanes(d);
    const Vector lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
    Vector highest = lowest;
    std::size_t i = 0;
    for (; i + lanes <= count; i += lanes) highest = hn::Max(highest, hn::LoadU(d, row + i));
    float result = hn::GetLane(hn::MaxOfLanes(d, highest));
    for (; i < count; ++i) result = std::max(result, row[i]);
    return result;
}

// exp(x[i] - highest) for the first `left` lanes and 0 behind; also written to `terms` unless it is null.
HWY_INLINE Vector ExpTerms(Floats d, const float* row, std::size_t left, Vector highest, float* terms) {
    Vector term = exp_of(d, hn::Sub(load_n(d, row, left), highest));
    if (left < hn::Lanes(d)) term = hn::IfThenElseZero(hn::FirstN(d, left), term);
    if (terms != nullptr) store_n(d, term, terms, left);
    return term;
}

// Sum of exp(row - highest) in four chains, joined in one order. `terms` is null or receives them.
float SumOfExp(const float* row, std::size_t count, float highest, float* terms) {
    const Floats d;
    const std::size_t lanes = hn::Lanes(d);
    const Vector shift = hn::Set(d, highest);
    Vector sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    const auto add = [&](Vector& sum, std::size_t i) HWY_ATTR {
        float* to = terms == nullptr ? nullptr : terms + i;
        sum = hn::Add(sum, ExpTerms(d, row + i, count - i, shift, to));
    };
    std::size_t i = 0;
    for (; i + 4 * lanes <= count; i += 4 * lanes) {
        add(sums[0], i);
        add(sums[1], i + lanes);
        add(sums[2], i + 2 * lanes);
        add(sums[3], i + 3 * lanes);
    }
    for (; i < count; i += lanes) add(sums[0], i);
    return sum_of(d, hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])));
}

void ScaleRow(float* row, std::size_t count, float factor) {
    const Floats d;
    for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
        store_n(d, hn::Mul(load_n(d, row + i, count - i), hn::Set(d, factor)), row + i, count - i);
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::kernels {
namespace {

HWY_EXPORT(MaxOfRow);
HWY_EXPORT(SumOfExp);
HWY_EXPORT(ScaleRow);

void check(ConstMatrix logits, std::span<const std::int32_t> targets, std::span<const float> losses) {
    FEDLLM_CHECK(targets.size() == logits.rows && losses.size() == logits.rows,
                 "cross_entropy: shapes differ");
    for (const std::int32_t target : targets) {
        const bool counts = target >= 0 && static_cast<std::size_t>(target) < logits.cols;
        FEDLLM_CHECK(counts || target == kIgnoreIndex, "cross_entropy: a target outside the vocabulary");
    }
}

}  // namespace

void cross_entropy_forward(ThreadPool& pool, ConstMatrix logits, std::span<const std::int32_t> targets,
                           std::span<float> losses) {
    check(logits, targets, losses);
    pool.parallel_for(logits.rows, [&](std::size_t m) {
        losses[m] = 0.0f;
        if (targets[m] == kIgnoreIndex) return;
        const float* row = logits.row(m);
        const float highest = HWY_DYNAMIC_DISPATCH(MaxOfRow)(row, logits.cols);
        const float sum = HWY_DYNAMIC_DISPATCH(SumOfExp)(row, logits.cols, highest, nullptr);
        losses[m] = std::log(sum) + (highest - row[targets[m]]);
    });
}

void cross_entropy_forward_backward(ThreadPool& pool, Matrix logits, std::span<const std::int32_t> targets,
                                    std::span<float> losses, float gradient_scale) {
    check(logits, targets, losses);
    pool.parallel_for(logits.rows, [&](std::size_t m) {
        float* row = logits.row(m);
        losses[m] = 0.0f;
        if (targets[m] == kIgnoreIndex) return std::fill(row, row + logits.cols, 0.0f);
        const float highest = HWY_DYNAMIC_DISPATCH(MaxOfRow)(row, logits.cols);
        const float below = highest - row[targets[m]];
        const float sum = HWY_DYNAMIC_DISPATCH(SumOfExp)(row, logits.cols, highest, row);
        losses[m] = std::log(sum) + below;
        row[targets[m]] -= sum;  // the row holds exp(logit - highest): softmax times sum
        HWY_DYNAMIC_DISPATCH(ScaleRow)(row, logits.cols, gradient_scale / sum);
    });
}

}  // namespace fedllm::kernels
#endif
