// Softmax and cross entropy on the GPU, the gradient written over the logits. Same definition as op.hpp.
#pragma once

#include <cstdint>

#include "kernels/cross_entropy/op.hpp"
#include "kernels/cuda/views.hpp"

namespace fedllm::kernels::cuda {

// losses[m] in f32, 0 for ignored rows. gradient_scale (one float in the GPU's memory: a recorded graph reads
// it anew each time) or nullptr: the logits stay. Else they become gradient_scale * (softmax -
// onehot(target)), and 0 in ignored rows.
void cross_entropy(const Stream& stream, DeviceMatrix logits,   // (M,V)
                   const std::int32_t* targets, float* losses,  // (M)
                   const float* gradient_scale);

// sum = the sum of `count` losses in double, in fixed order (added to *sum).
void add_losses(const Stream& stream, const float* losses, std::size_t count, double* sum);

}  // namespace fedllm::kernels::cuda
