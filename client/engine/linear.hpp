// A linear layer on the CPU, whatever it is made of.
#pragma once

#include "client/engine/network.hpp"
#include "kernels/device/thread_pool.hpp"

namespace fedllm::client::engine {

// y = linear(x); s (M,R) keeps x a^T for the backward pass.
void linear_forward(kernels::ThreadPool& pool, const Linear& linear, kernels::ConstMatrix x,
                    kernels::Matrix s, kernels::Matrix y);

// Gradients of whatever is trained are accumulated; dx (data null: not wanted) is written. ds (M,R) is
// scratch.
void linear_backward(kernels::ThreadPool& pool, const Linear& linear, kernels::ConstMatrix dy,
                     kernels::ConstMatrix x, kernels::ConstMatrix s, kernels::Matrix ds, kernels::Matrix dx,
                     kernels::Write dx_write = kernels::Write::Overwrite);

}  // namespace fedllm::client::engine
