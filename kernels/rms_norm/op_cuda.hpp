// RMSNorm on the GPU: bf16 rows, sums in f32. Same definition as op.hpp.
#pragma once

#include "kernels/cuda/views.hpp"

namespace fedllm::kernels::cuda {

// The row may be cut into `groups` equal parts (the heads of q or k), each normed by itself; the weight then
// has C / groups elements and rstd is (M, groups). M * groups < 2^32.
struct RmsNorm {
    const float* weight = nullptr;  // (C / groups)
    float epsilon = 0;
    std::size_t groups = 1;
};

// y = norm(x). With `add` (data not null) x += add comes first, rounded to bf16 and written back: the
// residual and the norm in one pass over memory. y may be x.
void rms_norm_forward(const Stream& stream, const RmsNorm& norm, DeviceMatrix x, ConstDeviceMatrix add,
                      DeviceMatrix y,  // all (M,C)
                      float* rstd);    // (M, groups), for the backward pass

// dx = or += gradient; dx may be dy. dweight (C / groups) += gradient, or nullptr where frozen: then
// `scratch` may be null, else it has rms_norm_scratch() floats.
void rms_norm_backward(const Stream& stream, const RmsNorm& norm, ConstDeviceMatrix dy, ConstDeviceMatrix x,
                       const float* rstd, DeviceMatrix dx, Write dx_write, float* dweight, float* scratch);
std::size_t rms_norm_scratch(std::size_t rows, std::size_t cols, std::size_t groups);

}  // namespace fedllm::kernels::cuda
