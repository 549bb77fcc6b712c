// Softmax and cross entropy in one pass over the logits, the gradient written over them.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {

inline constexpr std::int32_t kIgnoreIndex = -100;  // a target that does not count, as in PyTorch

// Per row: loss = log(sum exp(logits)) - logits[target], 0 for ignored rows.
void cross_entropy_forward(ThreadPool& pool, ConstMatrix logits,   // (M,V)
                           std::span<const std::int32_t> targets,  // (M)
                           std::span<float> losses);               // (M)

// The same, and logits become gradient_scale * (softmax - onehot(target)); ignored rows become 0.
void cross_entropy_forward_backward(ThreadPool& pool, Matrix logits, std::span<const std::int32_t> targets,
                                    std::span<float> losses, float gradient_scale);

}  // namespace fedllm::kernels
