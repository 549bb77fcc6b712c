// Loops whose reads go ahead of what is done with them: a compiler that sees both write to memory reads one
// element at a time, and a thread then waits for each.
#pragma once

#include "kernels/cuda/device_code.cuh"

namespace fedllm::kernels::cuda::compress {

// use(i, load(i)) for i = first, first + step, ... below count, in order; eight loads at a time.
template <class Load, class Use>
__device__ __forceinline__ void for_each_ahead(std::uint32_t first, std::uint32_t count, std::uint32_t step,
                                               const Load& load, const Use& use) {
    constexpr std::uint32_t kAhead = 8;
    std::uint32_t i = first;
    for (; i + (kAhead - 1) * step < count; i += kAhead * step) {
        decltype(load(i)) loaded[kAhead];
#pragma unroll
        for (std::uint32_t j = 0; j < kAhead; ++j) loaded[j] = load(i + j * step);
#pragma unroll
        for (std::uint32_t j = 0; j < kAhead; ++j) use(i + j * step, loaded[j]);
    }
    for (; i < count; i += step) use(i, load(i));
}

}  // namespace fedllm::kernels::cuda::compress
