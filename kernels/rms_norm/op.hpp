// RMSNorm (Zhang & Sennrich 2019): y = x / sqrt(mean(x^2) + eps) * weight, per row.
#pragma once

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {

void rms_norm_forward(ThreadPool& pool, ConstMatrix x,  // (M,C)
                      const float* weight,              // (C)
                      float epsilon, Matrix y,          // (M,C)
                      float* rstd);  // (M): 1 / sqrt(mean(x^2) + eps), for the backward pass

// dx (+)= gradient; dweight (C) += gradient, or nullptr when the weight is frozen.
void rms_norm_backward(ThreadPool& pool, ConstMatrix dy, ConstMatrix x, const float* weight,
                       const float* rstd, Matrix dx, Write dx_write, float* dweight);

}  // namespace fedllm::kernels
