// CUDA's names for kernels/cuda/device_code.cuh where a host compiler reads a kernel: what the language adds,
// and the few functions that our kernels use. As in CUDA they are global.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cuda/emulated_block.hpp"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define threadIdx (::fedllm::kernels::cuda::emulation::thread().thread_index)
#define blockIdx (::fedllm::kernels::cuda::emulation::thread().block_index)
#define blockDim (::fedllm::kernels::cuda::emulation::thread().block_dim)
#define gridDim (::fedllm::kernels::cuda::emulation::thread().grid_dim)

// Vector types are aligned to their size: the sanitizer reports what a GPU would refuse to load. As
// on a GPU they may be what memory of other types is read through.
struct alignas(8) [[gnu::may_alias]] uint2 {
    unsigned x, y;
};
struct alignas(16) [[gnu::may_alias]] uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) [[gnu::may_alias]] int2 {
    int x, y;
};
struct alignas(16) [[gnu::may_alias]] int4 {
    int x, y, z, w;
};
struct alignas(8) [[gnu::may_alias]] float2 {
    float x, y;
};
struct alignas(16) [[gnu::may_alias]] float4 {
    float x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline void __syncthreads() { fedllm::kernels::cuda::emulation::barrier(); }
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace fedllm::kernels::cuda::emulation {

template <class T>
struct Said {
    T value, heard;
    unsigned from;
};
// Each lane hears the value of the lane it names; from >= 32: its own.
template <class T>
T exchange(T value, unsigned from) {
    Said<T> mine{value, value, from};
    meet(32, &mine, [](void* const* all) {
        for (unsigned lane = 0; lane < 32; ++lane) {
            auto* said = static_cast<Said<T>*>(all[lane]);
            if (said->from < 32) said->heard = static_cast<Said<T>*>(all[said->from])->value;
        }
    });
    return mine.heard;
}
inline unsigned lane() { return thread().thread_index.x % 32; }
inline unsigned vote(bool value) {
    Said<unsigned> mine{value ? 1U : 0U, 0, 0};
    meet(32, &mine, [](void* const* all) {
        unsigned votes = 0;
        for (unsigned l = 0; l < 32; ++l) votes |= static_cast<Said<unsigned>*>(all[l])->value << l;
        for (unsigned l = 0; l < 32; ++l) static_cast<Said<unsigned>*>(all[l])->heard = votes;
    });
    return mine.heard;
}

}  // namespace fedllm::kernels::cuda::emulation

template <class T>
T __shfl_sync(unsigned, T value, unsigned from) {
    return fedllm::kernels::cuda::emulation::exchange(value, from % 32);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, unsigned mask) {
    return fedllm::kernels::cuda::emulation::exchange(value, fedllm::kernels::cuda::emulation::lane() ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned by) {
    const unsigned lane = fedllm::kernels::cuda::emulation::lane();
    return fedllm::kernels::cuda::emulation::exchange(value, lane >= by ? lane - by : lane);
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned by) {
    return fedllm::kernels::cuda::emulation::exchange(value, fedllm::kernels::cuda::emulation::lane() + by);
}
inline unsigned __ballot_sync(unsigned, bool value) { return fedllm::kernels::cuda::emulation::vote(value); }
inline bool __any_sync(unsigned, bool value) { return fedllm::kernels::cuda::emulation::vote(value) != 0; }
inline bool __all_sync(unsigned, bool value) {
    return fedllm::kernels::cuda::emulation::vote(value) == 0xFFFFFFFF;
}
inline void __syncwarp(unsigned = 0xFFFFFFFF) { fedllm::kernels::cuda::emulation::vote(true); }

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __clz(unsigned value) { return value == 0 ? 32 : __builtin_clz(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline unsigned __umulhi(unsigned a, unsigned b) {
    return static_cast<unsigned>(static_cast<std::uint64_t>(a) * b >> 32);
}
// Bytes of the eight in y:x, chosen by the nibbles of `selector` (bit 3, replicating the sign, is not used).
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const std::uint64_t both = static_cast<std::uint64_t>(y) << 32 | x;
    unsigned out = 0;
    for (unsigned i = 0; i < 4; ++i) {
        out |= static_cast<unsigned>(both >> (8 * (selector >> (4 * i) & 7)) & 0xFF) << (8 * i);
    }
    return out;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline int __float_as_int(float value) { return static_cast<int>(__float_as_uint(value)); }
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
inline float __expf(float value) { return std::exp(value); }
inline float __logf(float value) { return std::log(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __frcp_rn(float value) { return 1.0f / value; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float value) { return std::sqrt(value); }
template <class T>
T __ldg(const T* from) {
    return *from;
}

// One host thread runs all: plain reads and writes are atomic. Returns the value before.
template <class T>
T atomicAdd(T* at, T value) {
    const T before = *at;
    *at = before + value;
    return before;
}
template <class T>
T atomicMax(T* at, T value) {
    const T before = *at;
    if (value > before) *at = value;
    return before;
}
template <class T>
T atomicOr(T* at, T value) {
    const T before = *at;
    *at = before | value;
    return before;
}
template <class T>
T atomicCAS(T* at, T compare, T value) {
    const T before = *at;
    if (before == compare) *at = value;
    return before;
}
