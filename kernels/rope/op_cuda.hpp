// Rotary position embedding on the GPU, in place. Same definition as op.hpp.
#pragma once

#include <cstdint>

#include "kernels/cuda/views.hpp"
#include "kernels/rope/op.hpp"

namespace fedllm::kernels::cuda {

// Query and key heads that lie side by side are turned in one launch.
void rope(const Stream& stream, DeviceMatrix x,                                     // (M, heads*D)
          std::size_t heads, std::size_t head_size, const std::int32_t* positions,  // (M)
          const float* cosine, const float* sine,                                   // (positions, D/2)
          Turn turn);

}  // namespace fedllm::kernels::cuda
