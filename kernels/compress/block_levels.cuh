// A block of 64 values by a warp: lane l has values 2l and 2l + 1.
#pragma once

#include "common/codec/blocks.hpp"
#include "kernels/cuda/device_code.cuh"

namespace fedllm::kernels::cuda::compress {

struct BlockScale {
    std::uint16_t bits;
    float value, inverse;
};
// Of the whole block, to every lane; values that are not there are 0.
__device__ __forceinline__ BlockScale block_scale(float low, float high, int levels) {
    BlockScale scale;
    scale.bits = codec::blocks::scale_up(warp_max(fmaxf(fabsf(low), fabsf(high))), levels);
    scale.value = codec::blocks::bf16_value(scale.bits);
    scale.inverse = scale.bits == 0 ? 0.0f : 1.0f / scale.value;
    return scale;
}

// Payloads begin at any byte.
__device__ __forceinline__ void put_u16(std::uint8_t* to, std::uint16_t value) {
    to[0] = static_cast<std::uint8_t>(value & 0xFF);
    to[1] = static_cast<std::uint8_t>(value >> 8);
}

// Two levels in a byte; the second is 0 where there is no second value.
__device__ __forceinline__ std::uint8_t int4_pair(int low, int high, bool has_high) {
    const int bias = codec::blocks::kInt4Bias;
    return static_cast<std::uint8_t>((low + bias) | (has_high ? high + bias : 0) << 4);
}

}  // namespace fedllm::kernels::cuda::compress
