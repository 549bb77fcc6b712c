// GELU in its tanh form (Hendrycks & Gimpel 2016): 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
#pragma once

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {

void gelu_forward(ThreadPool& pool, ConstMatrix x, Matrix out);  // both (M,F)

// dx may be dout or x: each element is read before it is written.
void gelu_backward(ThreadPool& pool, ConstMatrix dout, ConstMatrix x, Matrix dx);

}  // namespace fedllm::kernels
