// GELU (tanh form) on the GPU. Same definition as op.hpp; computed in f32.
#pragma once

#include "kernels/cuda/views.hpp"

namespace fedllm::kernels::cuda {

void gelu_forward(const Stream& stream, ConstDeviceMatrix x, DeviceMatrix out);    // (M,F)
void gelu_backward(const Stream& stream, ConstDeviceMatrix dout, DeviceMatrix x);  // dx over x

}  // namespace fedllm::kernels::cuda
