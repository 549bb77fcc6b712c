// Causal grouped-query attention on the GPU's tensor cores: bf16 operands, f32 softmax and sums, online
// softmax forward, recomputing backward (FlashAttention-2, Dao 2023). Same definition and layouts as op.hpp.
// No sum depends on the order in which blocks run: the same bits every time.
#pragma once

#include <cstdint>

#include "kernels/attention/op.hpp"
#include "kernels/cuda/views.hpp"

namespace fedllm::kernels::cuda {

// D: a multiple of 8 up to 256; others are the caller's to refuse (attention_supports). scale > 0. B <=
// 65,535 and T <= 2^21: they are the grid's y and z.
constexpr bool attention_supports(std::size_t head_size) {
    return head_size >= 8 && head_size <= 256 && head_size % 8 == 0;
}

void attention_forward(const Stream& stream, const AttentionShape& shape,
                       const std::int32_t* first_key,  // (B,T)
                       ConstDeviceMatrix q,            // (B*T, H*D)
                       ConstDeviceMatrix k,            // (B*T, KV*D)
                       ConstDeviceMatrix v,            // (B*T, KV*D)
                       DeviceMatrix out,               // (B*T, H*D)
                       float* log_sum_exp);            // (B,H,T), for the backward pass

// dq, dk, dv are overwritten. `scratch` has attention_scratch() bytes, aligned to 16.
void attention_backward(const Stream& stream, const AttentionShape& shape, const std::int32_t* first_key,
                        ConstDeviceMatrix q, ConstDeviceMatrix k, ConstDeviceMatrix v, ConstDeviceMatrix out,
                        const float* log_sum_exp, ConstDeviceMatrix dout, void* scratch, DeviceMatrix dq,
                        DeviceMatrix dk, DeviceMatrix dv);
std::size_t attention_scratch(const AttentionShape& shape);

}  // namespace fedllm::kernels::cuda
