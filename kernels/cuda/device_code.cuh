// What the body of a kernel may use, in CUDA's own names: compiled by nvcc they are the GPU's, compiled by a
// host compiler they are those of the emulation. The one place that looks at __CUDACC__, with launch.hpp
// and tensor_core.cuh.
//
// Rules that keep both true: shared memory only by shared_memory<T>(); threads of a block along x alone; warp
// functions with the full mask, by all 32 lanes; no thread leaves while others still meet it at a barrier.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
// Before a loop over an array that must stay in registers; before one whose loads shall be under way
// together.
#define FEDLLM_PRAGMA(text) _Pragma(#text)
#define FEDLLM_UNROLL FEDLLM_PRAGMA(unroll)
#define FEDLLM_UNROLL_BY(count) FEDLLM_PRAGMA(unroll count)
#else
#include "kernels/cuda/emulated_device_code.hpp"
#define FEDLLM_UNROLL
#define FEDLLM_UNROLL_BY(count)
#endif

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/bf16.hpp"
#include "kernels/cuda/e4m3.hpp"

namespace fedllm::kernels::cuda {

constexpr unsigned kWarp = 32;
constexpr unsigned kFullMask = 0xFFFFFFFF;

// The block's dynamic shared memory, aligned to 1024 bytes; undefined at the start.
template <class T>
__device__ __forceinline__ T* shared_memory() {
#ifdef __CUDACC__
    extern __shared__ __align__(1024) unsigned char fedllm_shared_memory[];
    return reinterpret_cast<T*>(fedllm_shared_memory);
#else
    return reinterpret_cast<T*>(emulation::thread().shared);
#endif
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(BF16 value) {
#ifdef __CUDACC__
    return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
#else
    return widen(value);
#endif
}

template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}
template <>
__device__ __forceinline__ BF16 from_float<BF16>(float value) {
#ifdef __CUDACC__
    return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
    return narrow(value);
#endif
}

// Two bf16 in a register: `low` is the one at the lower address.
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
#ifdef __CUDACC__
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);  // one instruction
    return __bfloat16_as_ushort(pair.x) | static_cast<std::uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
#else
    return from_float<BF16>(low).bits | static_cast<std::uint32_t>(from_float<BF16>(high).bits) << 16;
#endif
}
__device__ __forceinline__ float low_of(std::uint32_t pair) {
    return to_float(BF16{static_cast<std::uint16_t>(pair)});
}
__device__ __forceinline__ float high_of(std::uint32_t pair) {
    return to_float(BF16{static_cast<std::uint16_t>(pair >> 16)});
}

// Two e4m3 in 16 bits, to the nearest, ties to even, beyond 448: 448. `low` is at the lower address.
__device__ __forceinline__ std::uint32_t pack_e4m3(float low, float high) {
#ifdef __CUDACC__
    return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
#else
    return narrow_e4m3(low) | static_cast<std::uint32_t>(narrow_e4m3(high)) << 8;
#endif
}

// exp of a large -x is inf, and its inverse 0: no special case.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// Every lane gets the result. The order of additions is fixed.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
    for (unsigned apart = kWarp / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(kFullMask, value, apart);
    return value;
}
__device__ __forceinline__ float warp_max(float value) {
    for (unsigned apart = kWarp / 2; apart > 0; apart /= 2)
        value = fmaxf(value, __shfl_xor_sync(kFullMask, value, apart));
    return value;
}

// The sum over a block, to every thread; `scratch` is 32 values of shared memory, free again after the next
// barrier.
template <class T>
__device__ __forceinline__ T block_sum(T value, T* scratch) {
    value = warp_sum(value);
    const unsigned warps = (blockDim.x + kWarp - 1) / kWarp;
    if (warps == 1) return value;
    if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
    __syncthreads();
    return warp_sum(threadIdx.x % kWarp < warps ? scratch[threadIdx.x % kWarp] : T{0});
}

// The largest over a block, likewise; NaNs are passed over.
__device__ __forceinline__ float block_max(float value, float* scratch) {
    value = warp_max(value);
    const unsigned warps = (blockDim.x + kWarp - 1) / kWarp;
    if (warps == 1) return value;
    if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
    __syncthreads();
    return warp_max(scratch[threadIdx.x % kWarp < warps ? threadIdx.x % kWarp : 0]);
}

}  // namespace fedllm::kernels::cuda
