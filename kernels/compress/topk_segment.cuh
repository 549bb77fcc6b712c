// One segment of `topk` by a block: what is selected, its gaps and its values.
#pragma once

#include "common/codec/blocks.hpp"
#include "common/codec/container.hpp"
#include "common/codec/topk.hpp"
#include "kernels/compress/block_levels.cuh"
#include "kernels/cuda/device_code.cuh"

namespace fedllm::kernels::cuda::compress {

constexpr unsigned kSegmentThreads = 512;
constexpr unsigned kSegmentWarps = kSegmentThreads / kWarp;

__device__ __forceinline__ std::uint32_t magnitude_bits(float value) {
    return __float_as_uint(value) & 0x7FFFFFFF;
}

// How many of a segment's values with the threshold's magnitude there are, and how many are selected.
struct Equals {
    unsigned all, selected;
};

constexpr unsigned kShifts = codec::topk::kShiftMax + 1;
constexpr unsigned kGapWords = codec::kSegmentValues / 32;  // gaps take a bit a value at most

struct SegmentShared {
    std::uint32_t gap_bits[kGapWords + 1];
    std::uint32_t warp_sums[kSegmentWarps];
    std::uint32_t shifted[kShifts];  // the sum of all gaps >> shift
};

// The sum of what the threads before this one bring, and of all. Barriers around it.
__device__ __forceinline__ std::uint32_t sum_before(std::uint32_t value, std::uint32_t* warp_sums,
                                                    std::uint32_t& all) {
    const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    std::uint32_t sum = value;
    for (unsigned apart = 1; apart < kWarp; apart *= 2) {
        const std::uint32_t other = __shfl_up_sync(kFullMask, sum, apart);
        if (lane >= apart) sum += other;
    }
    if (lane == kWarp - 1) warp_sums[warp] = sum;
    __syncthreads();
    std::uint32_t before = 0;
    all = 0;
    for (unsigned w = 0; w < kSegmentWarps; ++w) {
        before += w < warp ? warp_sums[w] : 0;
        all += warp_sums[w];
    }
    __syncthreads();
    return before + sum - value;
}

// Magnitudes of four neighbours, 0 beyond the end; the segment is aligned to 16 bytes.
struct Four {
    std::uint32_t bits[4] = {};
};
__device__ __forceinline__ Four read_four(const float* values, std::uint32_t count, std::uint32_t i) {
    if (i + 4 <= count) {
        const float4 all = *reinterpret_cast<const float4*>(values + i);
        return {{magnitude_bits(all.x), magnitude_bits(all.y), magnitude_bits(all.z), magnitude_bits(all.w)}};
    }
    Four four;
#pragma unroll
    for (std::uint32_t j = 0; j < 4; ++j) four.bits[j] = i + j < count ? magnitude_bits(values[i + j]) : 0;
    return four;
}

// Writes the indices of what is selected, in order; returns how many there are.
__device__ inline std::uint32_t select(const float* values, std::uint32_t count, std::uint32_t threshold,
                                       Equals equals, std::uint32_t* indices, SegmentShared* shared) {
    const bool some = equals.selected > 0 && equals.selected < equals.all;  // in few segments, if any
    std::uint32_t taken = 0, equals_before = 0;
    Four next = read_four(values, count, 4 * threadIdx.x);
    for (std::uint32_t tile = 0; tile < count; tile += 4 * kSegmentThreads) {
        const std::uint32_t first = tile + 4 * threadIdx.x;
        const Four four = next;
        next = read_four(values, count, first + 4 * kSegmentThreads);
        std::uint32_t all = 0, rank = 0;
        if (some) {
            std::uint32_t own = 0;
            for (const std::uint32_t bits : four.bits) own += bits == threshold ? 1 : 0;
            rank = equals_before + sum_before(own, shared->warp_sums, all);
            equals_before += all;
        }
        std::uint32_t taking = 0;  // a bit each
#pragma unroll
        for (std::uint32_t j = 0; j < 4; ++j) {
            const bool equal = threshold > 0 && four.bits[j] == threshold;
            const bool take_equal = equal && (some ? rank : 0) < equals.selected;
            rank += equal ? 1 : 0;
            taking |= (four.bits[j] > threshold || take_equal ? 1U : 0U) << j;
        }
        std::uint32_t at =
            taken + sum_before(static_cast<std::uint32_t>(__popc(taking)), shared->warp_sums, all);
        taken += all;
#pragma unroll
        for (std::uint32_t j = 0; j < 4; ++j) {
            if ((taking >> j & 1) != 0) indices[at++] = first + j;
        }
    }
    __syncthreads();
    return taken;
}

__device__ __forceinline__ std::uint32_t gap_of(const std::uint32_t* indices, std::uint32_t j) {
    return indices[j] - (j > 0 ? indices[j - 1] + 1 : 0);
}

// The shift that makes the gaps shortest, the lowest of equals.
__device__ inline unsigned best_shift(const std::uint32_t* indices, std::uint32_t taken,
                                      SegmentShared* shared) {
    if (threadIdx.x < kShifts) shared->shifted[threadIdx.x] = 0;
    __syncthreads();
    std::uint32_t own[kShifts] = {};
    for (std::uint32_t j = threadIdx.x; j < taken; j += kSegmentThreads) {
        const std::uint32_t gap = gap_of(indices, j);
#pragma unroll
        for (unsigned shift = 0; shift < kShifts; ++shift) own[shift] += gap >> shift;
    }
#pragma unroll
    for (unsigned shift = 0; shift < kShifts; ++shift) {
        for (unsigned apart = kWarp / 2; apart > 0; apart /= 2)
            own[shift] += __shfl_xor_sync(kFullMask, own[shift], apart);
        if (threadIdx.x % kWarp == 0) atomicAdd(&shared->shifted[shift], own[shift]);
    }
    __syncthreads();
    unsigned best = 0;
    for (unsigned shift = 1; shift < kShifts; ++shift) {
        if (taken * (1 + shift) + shared->shifted[shift] < taken * (1 + best) + shared->shifted[best])
            best = shift;
    }
    return best;
}

// `count` (<= 32) bits into words that are zero there.
__device__ __forceinline__ void put_bits(std::uint32_t* words, std::uint32_t at, std::uint32_t value,
                                         unsigned count) {
    if (count == 0) return;
    const std::uint64_t shifted = std::uint64_t{value} << (at % 32);
    atomicOr(&words[at / 32], static_cast<std::uint32_t>(shifted));
    if (at % 32 + count > 32) atomicOr(&words[at / 32 + 1], static_cast<std::uint32_t>(shifted >> 32));
}

// Rice codes of all gaps, in shared memory; returns how many bits they take.
__device__ inline std::uint32_t code_gaps(const std::uint32_t* indices, std::uint32_t taken, unsigned shift,
                                          SegmentShared* shared) {
    for (std::uint32_t word = threadIdx.x; word <= kGapWords; word += kSegmentThreads)
        shared->gap_bits[word] = 0;
    __syncthreads();
    std::uint32_t written = 0;
    for (std::uint32_t tile = 0; tile < taken; tile += kSegmentThreads) {
        const std::uint32_t j = tile + threadIdx.x;
        const std::uint32_t gap = j < taken ? gap_of(indices, j) : 0;
        std::uint32_t all = 0;
        std::uint32_t at =
            written + sum_before(j < taken ? (gap >> shift) + 1 + shift : 0, shared->warp_sums, all);
        written += all;
        if (j >= taken) continue;
        for (std::uint32_t ones = gap >> shift; ones > 0;) {
            const unsigned some = ones < 32 ? ones : 32;
            put_bits(shared->gap_bits, at, some == 32 ? 0xFFFFFFFF : (1U << some) - 1, some);
            at += some;
            ones -= some;
        }
        put_bits(shared->gap_bits, at + 1, gap & ((1U << shift) - 1), shift);
    }
    __syncthreads();
    return written;
}

struct Selected {
    const float* values;           // of the segment, as all here
    float* decoded;                // zero where nothing is selected
    const std::uint32_t* indices;  // (taken)
    std::uint32_t taken;
};

__device__ inline void code_bf16(const Selected& from, std::uint8_t* to) {
    for (std::uint32_t j = threadIdx.x; j < from.taken; j += kSegmentThreads) {
        const std::uint16_t bits = codec::blocks::bf16_nearest(from.values[from.indices[j]]);
        put_u16(to + 2 * std::size_t{j}, bits);
        from.decoded[from.indices[j]] = codec::blocks::bf16_value(bits);
    }
}

__device__ inline void code_int4(const Selected& from, std::uint8_t* to) {
    constexpr unsigned kBlockBytes = 2 + codec::blocks::kBlockValues / 2;
    constexpr unsigned kBlock = codec::blocks::kBlockValues;
    const unsigned lane = threadIdx.x % kWarp;
    for (unsigned block = threadIdx.x / kWarp; block * kBlock < from.taken; block += kSegmentWarps) {
        const std::uint32_t j = block * kBlock + 2 * lane;
        const bool has_low = j < from.taken, has_high = j + 1 < from.taken;
        const std::uint32_t low_at = has_low ? from.indices[j] : 0;
        const std::uint32_t high_at = has_high ? from.indices[j + 1] : 0;
        const float low = has_low ? from.values[low_at] : 0.0f;
        const float high = has_high ? from.values[high_at] : 0.0f;
        const BlockScale scale = block_scale(low, high, codec::blocks::kInt4Levels);
        if (lane == 0) put_u16(to + block * kBlockBytes, scale.bits);
        if (!has_low) continue;
        const int low_level = codec::blocks::level_nearest(low, scale.inverse, codec::blocks::kInt4Levels);
        const int high_level = codec::blocks::level_nearest(high, scale.inverse, codec::blocks::kInt4Levels);
        to[block * kBlockBytes + 2 + lane] = int4_pair(low_level, high_level, has_high);
        from.decoded[low_at] = static_cast<float>(low_level) * scale.value;
        if (has_high) from.decoded[high_at] = static_cast<float>(high_level) * scale.value;
    }
}

__device__ __forceinline__ std::uint32_t value_bytes(codec::TopKValues kind, std::uint32_t count) {
    if (kind == codec::TopKValues::Bf16) return 2 * count;
    const auto block = static_cast<std::uint32_t>(codec::blocks::kBlockValues);
    const std::uint32_t rest = count % block;
    return count / block * (2 + block / 2) + (rest > 0 ? 2 + (rest + 1) / 2 : 0);
}

}  // namespace fedllm::kernels::cuda::compress
