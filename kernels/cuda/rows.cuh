// Rows of bf16, eight values (16 bytes) at a time: how a thread loads and stores them, and below how threads
// team up for a row.
//
// Rows of bf16 start on 16 bytes, vectors of f32 anywhere. `left` is how many columns the row has from here
// on. A load takes all 16 bytes of the last eight (a pitch is a multiple of 8) and puts zeros where the row
// has ended; a store writes only what the row has.
#pragma once

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/views.hpp"

namespace fedllm::kernels::cuda {

constexpr unsigned kEight = 8;  // bf16 in 16 bytes

// Eight bf16 as they lie in memory, and widened.
struct Eight {
    std::uint32_t pairs[4];
};
struct EightFloats {
    float at[kEight];
};

template <class T>
__device__ __forceinline__ T* row_of(const MatrixView<T>& matrix, std::size_t row) {
    return matrix.data + row * matrix.pitch;
}

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
// Zeros at `left` and behind.
__device__ __forceinline__ void cut(Eight& eight, unsigned left) {
    if (left >= kEight) return;
    FEDLLM_UNROLL
    for (unsigned i = 0; i < 4; ++i) {
        if (left <= 2 * i) eight.pairs[i] = 0;
        if (left == 2 * i + 1) eight.pairs[i] &= 0xFFFF;
    }
}
__device__ __forceinline__ Eight load_eight(const BF16* from, unsigned left) {
    Eight eight = load_eight(from);
    cut(eight, left);
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

// A vector of f32, on 16 bytes or not: an optimiser keeps its values one behind the other.
__device__ __forceinline__ bool starts_on_16_bytes(const float* vector) {
    return reinterpret_cast<std::uintptr_t>(vector) % 16 == 0;
}
__device__ __forceinline__ EightFloats load_eight(const float* from) {
    const auto* four = reinterpret_cast<const float4*>(from);
    const float4 low = four[0], high = four[1];
    return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}
// Nothing behind the row is read: an f32 vector has no gap.
__device__ __forceinline__ EightFloats load_eight(const float* from, unsigned left) {
    if (left >= kEight && starts_on_16_bytes(from)) return load_eight(from);
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
    if (left >= kEight && starts_on_16_bytes(to)) return store_eight(to, wide);
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) {
        if (i < left) to[i] = wide.at[i];
    }
}

// Threads that share a row: kLanes of a warp, several rows to a block; or, with 0, the whole block. A thread
// has the eights at columns 8 rank, 8 (rank + size), ...
template <unsigned kLanes>
struct Team {
    static constexpr unsigned kThreadsMax = kLanes == 0 ? 1024 : 128;

    static __device__ unsigned rank() { return kLanes == 0 ? threadIdx.x : threadIdx.x % kLanes; }
    static __device__ unsigned size() { return kLanes == 0 ? blockDim.x : kLanes; }
    static __device__ unsigned row() {
        return kLanes == 0 ? blockIdx.x : blockIdx.x * (kThreadsMax / kLanes) + threadIdx.x / kLanes;
    }
    // The sum over the team, to all of it. Every thread of the block calls it, also where there is no row.
    // `scratch`: as block_sum().
    static __device__ float sum(float value, float* scratch) {
        if constexpr (kLanes == 0) {
            return block_sum(value, scratch);
        } else {
            FEDLLM_UNROLL
            for (unsigned apart = kLanes / 2; apart > 0; apart /= 2)
                value += __shfl_xor_sync(kFullMask, value, apart);
            return value;
        }
    }
};

// visit(k, column, left) for each of a thread's eights. With kHeld > 0 there are at most so many and k counts
// them; else any number, and k is 0.
template <unsigned kLanes, unsigned kHeld, class Visit>
__device__ __forceinline__ void for_share(unsigned cols, Visit&& visit) {
    const unsigned step = kEight * Team<kLanes>::size();
    const unsigned first = kEight * Team<kLanes>::rank();
    if constexpr (kHeld > 0) {
        FEDLLM_UNROLL
        for (unsigned k = 0; k < kHeld; ++k) {
            if (first + k * step < cols) visit(k, first + k * step, cols - first - k * step);
        }
    } else {
        for (unsigned c = first; c < cols; c += step) visit(0, c, cols - c);
    }
}

// A thread's share of its team's row: taken from memory once, all loads under way together, and held in
// registers. With kHeld = 0 it is read at every use, element by element.
template <unsigned kLanes, unsigned kHeld>
struct Share {
    Eight held[kHeld];

    __device__ __forceinline__ void take(const BF16* row, unsigned cols) {
        for_share<kLanes, kHeld>(cols,
                                 [&](unsigned k, unsigned c, unsigned) { held[k] = load_eight(row + c); });
    }
    // Zeros behind the row. Not part of take(): who waits for one row would not ask for the next.
    __device__ __forceinline__ void cut_tail(unsigned cols) {
        for_share<kLanes, kHeld>(cols, [&](unsigned k, unsigned, unsigned left) { cut(held[k], left); });
    }
    __device__ __forceinline__ EightFloats at(unsigned k, unsigned, unsigned) const {
        return to_floats(held[k]);
    }
    // Writes to memory; what was written is held from now on.
    __device__ __forceinline__ void replace(BF16* row, unsigned k, unsigned c, unsigned left,
                                            const EightFloats& wide) {
        held[k] = to_eight(wide);
        store_eight(row + c, held[k], left);
    }
};
template <unsigned kLanes>
struct Share<kLanes, 0> {
    const BF16* row = nullptr;

    __device__ __forceinline__ void take(const BF16* from, unsigned) { row = from; }
    __device__ __forceinline__ void cut_tail(unsigned) {}
    __device__ __forceinline__ EightFloats at(unsigned, unsigned c, unsigned left) const {
        EightFloats wide;
        for (unsigned i = 0; i < kEight; ++i) wide.at[i] = i < left ? to_float(row[c + i]) : 0.0f;
        return wide;
    }
    __device__ __forceinline__ void replace(BF16* to, unsigned, unsigned c, unsigned left,
                                            const EightFloats& wide) {
        for (unsigned i = 0; i < kEight && i < left; ++i) to[c + i] = from_float<BF16>(wide.at[i]);
    }
};

// Calls start<kLanes, kHeld>(how) with the team that suits rows of so many columns: a part of a warp, a warp,
// or as many warps as hold the row in registers, kHeld eights a thread. Rows that do not start on 16 bytes
// (`aligned` false) or are longer than that, as no model's are, get start<0, 0>.
template <unsigned kHeld, class Start>
void with_team(std::size_t rows, std::size_t cols, bool aligned, Start&& start) {
    constexpr unsigned kBlockMax = Team<0>::kThreadsMax;
    constexpr std::size_t kShared = 2 * kWarp * sizeof(float);  // for two sums
    const std::size_t eights = (cols + kEight - 1) / kEight;
    auto lanes = [&]<unsigned kLanes, unsigned kKept>() {
        constexpr unsigned kThreads = Team<kLanes>::kThreadsMax;
        start.template operator()<kLanes, kKept>(
            Launch{.grid = {blocks_for(rows, kThreads / kLanes)}, .threads = kThreads});
    };
    auto block = [&]<unsigned kKept>(unsigned threads) {
        start.template operator()<0, kKept>(
            Launch{.grid = {blocks_for(rows, 1)}, .threads = threads, .shared_bytes = kShared});
    };
    if (!aligned || eights > kHeld * kBlockMax) return block.template operator()<0>(kBlockMax / 4);
    if (eights <= 8) return lanes.template operator()<4, 2>();
    if (eights <= 16) return lanes.template operator()<8, 2>();
    if (eights <= 32) return lanes.template operator()<16, 2>();
    if (eights <= 64) return lanes.template operator()<32, 2>();
    if (eights <= kWarp * kHeld) return lanes.template operator()<32, kHeld>();
    block.template operator()<kHeld>(kWarp * blocks_for(eights, kWarp * kHeld));
}

}  // namespace fedllm::kernels::cuda
