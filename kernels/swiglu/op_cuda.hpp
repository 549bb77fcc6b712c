// SwiGLU on the GPU. Same definition as op.hpp; computed in f32.
#pragma once

#include "kernels/cuda/views.hpp"

namespace fedllm::kernels::cuda {

void swiglu_forward(const Stream& stream, ConstDeviceMatrix gate, ConstDeviceMatrix up,
                    DeviceMatrix out);  // (M,F)

// In place: d(gate) over gate, d(up) over up. `act` (data not null) is written again, silu(gate) * up, for a
// backward pass that did not keep it; it may be dout.
void swiglu_backward(const Stream& stream, ConstDeviceMatrix dout, DeviceMatrix gate, DeviceMatrix up,
                     DeviceMatrix act);

}  // namespace fedllm::kernels::cuda
