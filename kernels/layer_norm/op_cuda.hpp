// LayerNorm on the GPU: bf16 rows, sums in f32. Same definition as op.hpp.
#pragma once

#include "kernels/cuda/views.hpp"

namespace fedllm::kernels::cuda {

void layer_norm_forward(const Stream& stream, ConstDeviceMatrix x,  // (M,C)
                        const float* weight, const float* bias,     // (C)
                        float epsilon, DeviceMatrix y,              // (M,C)
                        float* rstd, float* mean);                  // (M), for the backward pass

// dx = or += gradient, may be dy; dweight and dbias (C) += gradient, or nullptr where frozen. `scratch` has
// layer_norm_scratch() floats where one of them is wanted.
void layer_norm_backward(const Stream& stream, ConstDeviceMatrix dy, ConstDeviceMatrix x, const float* weight,
                         const float* rstd, const float* mean, DeviceMatrix dx, Write dx_write,
                         float* dweight, float* dbias, float* scratch);
std::size_t layer_norm_scratch(std::size_t rows, std::size_t cols);

}  // namespace fedllm::kernels::cuda
