// SwiGLU (Shazeer 2020): out = silu(gate) * up, silu(g) = g / (1 + exp(-g)).
#pragma once

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {

void swiglu_forward(ThreadPool& pool, ConstMatrix gate, ConstMatrix up, Matrix out);  // all (M,F)

// dgate and dup may be gate and up themselves: each element is read before it is written.
void swiglu_backward(ThreadPool& pool, ConstMatrix dout, ConstMatrix gate, ConstMatrix up, Matrix dgate,
                     Matrix dup);

}  // namespace fedllm::kernels
