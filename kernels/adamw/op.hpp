// AdamW (Loshchilov & Hutter 2019) with PyTorch's arithmetic, and the global gradient norm.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/device/thread_pool.hpp"

namespace fedllm::kernels {

struct AdamWConfig {
    double learning_rate = 1e-3;
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;
    double weight_decay = 0.0;  // decoupled: params *= 1 - learning_rate * weight_decay
};

// One step, number `step` counted from 1 (bias correction). gradient_scale multiplies every gradient first
// (clipping, averaging over accumulation). All spans have the same length.
void adamw(ThreadPool& pool, const AdamWConfig& config, std::uint64_t step, float gradient_scale,
           std::span<const float> gradients, std::span<float> params, std::span<float> first_moment,
           std::span<float> second_moment);

// sqrt(sum of squares), summed in double over fixed blocks: the same for any thread count.
double l2_norm(ThreadPool& pool, std::span<const float> values);

}  // namespace fedllm::kernels
