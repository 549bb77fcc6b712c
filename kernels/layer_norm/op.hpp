// LayerNorm (Ba et al. 2016): y = (x - mean) / sqrt(variance + eps) * weight + bias, per row.
#pragma once

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {

void layer_norm_forward(ThreadPool& pool, ConstMatrix x,         // (M,C)
                        const float* weight, const float* bias,  // (C)
                        float epsilon, Matrix y,                 // (M,C)
                        float* rstd, float* mean);  // (M): 1 / sqrt(variance + eps), for the backward pass

// dx (+)= gradient, may be dy; dweight and dbias (C) += gradient, or nullptr where frozen.
void layer_norm_backward(ThreadPool& pool, ConstMatrix dy, ConstMatrix x, const float* weight,
                         const float* rstd, const float* mean, Matrix dx, Write dx_write, float* dweight,
                         float* dbias);

}  // namespace fedllm::kernels
