// AdamW one element at a time, with every rounding spelled out: the bits that the CPU's body and the GPU's
// both give.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/adamw/op.hpp"

namespace fedllm::kernels {

inline void adamw_bits(const AdamWConfig& config, std::uint64_t number, float gradient_scale,
                       std::span<const float> gradients, std::span<float> params, std::span<float> first,
                       std::span<float> second) {
    const auto steps = static_cast<double>(number);
    const auto keep = static_cast<float>(1.0 - config.learning_rate * config.weight_decay);
    const auto root_correction = static_cast<float>(std::sqrt(1.0 - std::pow(config.beta2, steps)));
    const auto step_size = static_cast<float>(config.learning_rate / (1.0 - std::pow(config.beta1, steps)));
    for (std::size_t i = 0; i < params.size(); ++i) {
        const float g = gradients[i] * gradient_scale;
        first[i] = std::fma(g - first[i], static_cast<float>(1.0 - config.beta1), first[i]);
        second[i] = std::fma(g * g, static_cast<float>(1.0 - config.beta2),
                             second[i] * static_cast<float>(config.beta2));
        const float root = std::sqrt(second[i]) / root_correction;
        const float step = first[i] / (root + static_cast<float>(config.epsilon));
        params[i] = std::fma(-step, step_size, params[i] * keep);
    }
}

}  // namespace fedllm::kernels
