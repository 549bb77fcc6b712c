#include "kernels/adamw/op.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/result.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/adamw/op_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/simd-inl.hpp"

#ifndef FEDLLM_KERNELS_ADAMW_FACTORS
#define FEDLLM_KERNELS_ADAMW_FACTORS
namespace fedllm::kernels {
namespace {

// What one step multiplies with, rounded once from double as PyTorch does.
struct Factors {
    float gradient_scale;
    float keep;  // 1 - learning_rate * weight_decay
    float one_minus_beta1;
    float beta2;
    float one_minus_beta2;
    float root_correction;  // sqrt(1 - beta2^step)
    float epsilon;
    float step_size;  // learning_rate / (1 - beta1^step)
};

}  // namespace
}  // namespace fedllm::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {
namespace {

void StepBlock(const Factors& f, const float* gradients, float* params, float* first, float* second,
               std::size_t count) {
    const Floats d;
    for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
        const std::size_t left = count - i;
        const Vector g = hn::Mul(load_n(d, gradients + i, left), hn::Set(d, f.gradient_scale));
        Vector m = load_n(d, first + i, left);
        m = hn::MulAdd(hn::Sub(g, m), hn::Set(d, f.one_minus_beta1), m);
        Vector v = hn::Mul(load_n(d, second + i, left), hn::Set(d, f.beta2));
        v = hn::MulAdd(hn::Mul(g, g), hn::Set(d, f.one_minus_beta2), v);
        const Vector root = hn::Div(hn::Sqrt(v), hn::Set(d, f.root_correction));
        const Vector step = hn::Div(m, hn::Add(root, hn::Set(d, f.epsilon)));
        const Vector p = hn::Mul(load_n(d, params + i, left), hn::Set(d, f.keep));
        store_n(d, m, first + i, left);
        store_n(d, v, second + i, left);
        store_n(d, hn::NegMulAdd(step, hn::Set(d, f.step_size), p), params + i, left);
    }
}

// Squares are exact in double, so only the additions round.
double SquaresOfBlock(const float* values, std::size_t count) {
    constexpr std::size_t kChains = 16;
    double sums[kChains] = {};
    std::size_t i = 0;
    for (; i + kChains <= count; i += kChains) {
        for (std::size_t j = 0; j < kChains; ++j) {
            const double value = values[i + j];
            sums[j] += value * value;
        }
    }
    for (std::size_t j = 0; i < count; ++i, ++j) sums[j] += double{values[i]} * double{values[i]};
    double total = 0.0;
    for (const double sum : sums) total += sum;
    return total;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::kernels {
namespace {

HWY_EXPORT(StepBlock);
HWY_EXPORT(SquaresOfBlock);

constexpr std::size_t kBlock = 16 * 1024;

}  // namespace

void adamw(ThreadPool& pool, const AdamWConfig& config, std::uint64_t step, float gradient_scale,
           std::span<const float> gradients, std::span<float> params, std::span<float> first_moment,
           std::span<float> second_moment) {
    const std::size_t count = params.size();
    FEDLLM_CHECK(gradients.size() == count && first_moment.size() == count && second_moment.size() == count,
                 "adamw: spans differ in length");
    FEDLLM_CHECK(step >= 1, "adamw: steps are counted from 1");
    const double correction1 = 1.0 - std::pow(config.beta1, static_cast<double>(step));
    const double correction2 = 1.0 - std::pow(config.beta2, static_cast<double>(step));
    const Factors factors{gradient_scale,
                          static_cast<float>(1.0 - config.learning_rate * config.weight_decay),
                          static_cast<float>(1.0 - config.beta1),
                          static_cast<float>(config.beta2),
                          static_cast<float>(1.0 - config.beta2),
                          static_cast<float>(std::sqrt(correction2)),
                          static_cast<float>(config.epsilon),
                          static_cast<float>(config.learning_rate / correction1)};
    pool.parallel_for((count + kBlock - 1) / kBlock, [&](std::size_t item) {
        const std::size_t at = item * kBlock;
        HWY_DYNAMIC_DISPATCH(StepBlock)
        (factors, gradients.data() + at, params.data() + at, first_moment.data() + at,
         second_moment.data() + at, std::min(kBlock, count - at));
    });
}

double l2_norm(ThreadPool& pool, std::span<const float> values) {
    const std::size_t blocks = (values.size() + kBlock - 1) / kBlock;
    constexpr std::size_t kBlocksMax = ThreadPool::kSharedScratchFloats / 2;
    FEDLLM_CHECK(blocks <= kBlocksMax, "l2_norm: over 4e9 values");
    float* partial = pool.shared_scratch().data();  // holds doubles, copied in and out as bytes
    pool.parallel_for(blocks, [&](std::size_t item) {
        const std::size_t at = item * kBlock;
        const double sum =
            HWY_DYNAMIC_DISPATCH(SquaresOfBlock)(values.data() + at, std::min(kBlock, values.size() - at));
        std::memcpy(partial + 2 * item, &sum, sizeof(sum));
    });
    double total = 0.0;
    for (std::size_t item = 0; item < blocks; ++item) {
        double sum = 0.0;
        std::memcpy(&sum, partial + 2 * item, sizeof(sum));
        total += sum;
    }
    return std::sqrt(total);
}

}  // namespace fedllm::kernels
#endif
