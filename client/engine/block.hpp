// The pieces of a layer that families do differently, behind one form: norms, norms of heads, activations.
#pragma once

#include "client/engine/network.hpp"
#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::client::engine {

// The columns of a (M, H*D + 2*KV*D) buffer.
struct QkvViews {
    kernels::Matrix all, q, k, v;
};
QkvViews split_qkv(const model::ModelConfig& config, float* data, std::size_t rows);

// y = norm(x), all (M,C). stats (2,M) keeps what the backward pass needs.
void norm_forward(kernels::ThreadPool& pool, const Norm& norm, kernels::ConstMatrix x, kernels::Matrix y,
                  float* stats);
// dx (+)= gradient, may be dy; the norm's own gradients are accumulated.
void norm_backward(kernels::ThreadPool& pool, const Norm& norm, kernels::ConstMatrix dy,
                   kernels::ConstMatrix x, const float* stats, kernels::Matrix dx, kernels::Write write);

// RMSNorm of every head of x (M, heads*D) by itself, with one weight (D). rstd (heads,M). dx may be dy.
void norm_heads_forward(kernels::ThreadPool& pool, const Norm& norm, std::size_t head_size,
                        kernels::ConstMatrix x, kernels::Matrix y, float* rstd);
void norm_heads_backward(kernels::ThreadPool& pool, const Norm& norm, std::size_t head_size,
                         kernels::ConstMatrix dy, kernels::ConstMatrix x, const float* rstd,
                         kernels::Matrix dx);

// out = silu(gate) * up, or gelu(up): then gate is empty. All (M,F).
void activation_forward(kernels::ThreadPool& pool, model::Activation activation, kernels::ConstMatrix gate,
                        kernels::ConstMatrix up, kernels::Matrix out);
// Leaves d(gate) in gate and d(up) in up.
void activation_backward(kernels::ThreadPool& pool, model::Activation activation, kernels::ConstMatrix dout,
                         kernels::Matrix gate, kernels::Matrix up);

}  // namespace fedllm::client::engine
