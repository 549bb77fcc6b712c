// Rows of bf16, eight values (16 bytes) at a time: how a thread loads and stores them, and below how threads
// team up for a row.
//
// What is asked for: rows of bf16 and vectors of f32 that start on 16 bytes. `left` is how many columns the
// row has from here on. A load takes all 16 bytes of the last eight (a pitch is a multiple of 8) and puts
// zeros where the row has ended; a store writes only what the row has.
#pragma once

#include "kernels/cuda/device_code.cuh"

namespace fedllm::kernels::cuda {

constexpr unsigned kEight = 8;  // bf16 in 16 bytes

// Eight bf16 as they lie in memory, and widened.
struct Eight {
    std::uint32_t pairs[4];
};
struct EightFloats {
    float at[kEight];
};

__device__ __forceinline__ EightFloats to_floats(const Eight& eight) {
    EightFloats wide;
    FEDLLM_UNROLL
    for (unsigned i = 0; i < 4; ++i) {
        wide.at[2 * i] = low_of(eight.pairs[i]);
        wide.at[2 * i + 1] = high_of(eight.pairs[i]);
    }
    return wide;
}
__device__ __forceinline__ Eight to_eight(const EightFloats& wide) {
    Eight eight;
    FEDLLM_UNROLL
    for (unsigned i = 0; i < 4; ++i) eight.pairs[i] = pack(wide.at[2 * i], wide.at[2 * i + 1]);
    return eight;
}

__device__ __forceinline__ Eight load_eight(const BF16* from) {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    return {{bits.x, bits.y, bits.z, bits.w}};
}
__device__ __forceinline__ Eight load_eight(const BF16* from, unsigned left) {
    Eight eight = load_eight(from);
    if (left >= kEight) return eight;
    FEDLLM_UNROLL
    for (unsigned i = 0; i < 4; ++i) {
        if (left <= 2 * i) eight.pairs[i] = 0;
        if (left == 2 * i + 1) eight.pairs[i] &= 0xFFFF;
    }
    return eight;
}
__device__ __forceinline__ void store_eight(BF16* to, const Eight& eight) {
    *reinterpret_cast<uint4*>(to) = {eight.pairs[0], eight.pairs[1], eight.pairs[2], eight.pairs[3]};
}
__device__ __forceinline__ void store_eight(BF16* to, const Eight& eight, unsigned left) {
    if (left >= kEight) return store_eight(to, eight);
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) {
        if (i < left) to[i] = {static_cast<std::uint16_t>(eight.pairs[i / 2] >> (16 * (i % 2)))};
    }
}

__device__ __forceinline__ EightFloats load_eight(const float* from) {
    const auto* four = reinterpret_cast<const float4*>(from);
    const float4 low = four[0], high = four[1];
    return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}
// Nothing behind the row is read: an f32 vector has no gap.
__device__ __forceinline__ EightFloats load_eight(const float* from, unsigned left) {
    if (left >= kEight) return load_eight(from);
    EightFloats wide;
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) wide.at[i] = i < left ? from[i] : 0.0f;
    return wide;
}
__device__ __forceinline__ void store_eight(float* to, const EightFloats& wide) {
    auto* four = reinterpret_cast<float4*>(to);
    four[0] = {wide.at[0], wide.at[1], wide.at[2], wide.at[3]};
    four[1] = {wide.at[4], wide.at[5], wide.at[6], wide.at[7]};
}
__device__ __forceinline__ void store_eight(float* to, const EightFloats& wide, unsigned left) {
    if (left >= kEight) return store_eight(to, wide);
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) {
        if (i < left) to[i] = wide.at[i];
    }
}

}  // namespace fedllm::kernels::cuda
