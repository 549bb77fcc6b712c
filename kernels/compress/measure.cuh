// One pass over all values that changes them and measures them: a warp takes a block of 4096, so that sums
// have the order of common/codec/deadzone.hpp.
#pragma once

#include "common/codec/deadzone.hpp"
#include "kernels/compress/ahead.cuh"
#include "kernels/cuda/device_code.cuh"

namespace fedllm::kernels::cuda::compress {

struct BlockMeasure {
    double squares;
    std::uint32_t largest;  // bits of the magnitude
    std::uint32_t zeros;
    std::uint32_t not_finite;  // index in the block of the first; kNone
};
constexpr std::uint32_t kNone = 0xFFFFFFFF;
constexpr std::uint32_t kInfinity = 0x7F800000;

// What one lane has seen of a block.
struct Tally {
    BlockMeasure of{0, 0, 0, kNone};

    __device__ void add(double value, std::uint32_t index) {
        const std::uint32_t magnitude = __float_as_uint(fabsf(static_cast<float>(value)));
        of.squares += value * value;  // exact for what was f32
        of.largest = magnitude > of.largest ? magnitude : of.largest;
        of.zeros += magnitude == 0 ? 1 : 0;
        if (magnitude >= kInfinity && index < of.not_finite) of.not_finite = index;
    }
    // Lane i takes lane i + 16, 8, ...: lane 0 has the block's.
    __device__ void fold() {
        for (unsigned apart = kWarp / 2; apart > 0; apart /= 2) {
            of.squares += __shfl_down_sync(kFullMask, of.squares, apart);
            const std::uint32_t largest = __shfl_down_sync(kFullMask, of.largest, apart);
            of.largest = largest > of.largest ? largest : of.largest;
            of.zeros += __shfl_down_sync(kFullMask, of.zeros, apart);
            const std::uint32_t bad = __shfl_down_sync(kFullMask, of.not_finite, apart);
            of.not_finite = bad < of.not_finite ? bad : of.not_finite;
        }
    }
};

struct Two {
    double first, second;
};

constexpr unsigned kMeasureThreads = 256;
constexpr std::uint64_t kMeasureValues = kMeasureThreads / kWarp * codec::deadzone::kSquareBlock;

// body.load(i) reads what element i needs, body.apply(i, it) writes and returns what is measured. `second`
// may be null.
template <class Body>
__global__ void __launch_bounds__(kMeasureThreads)
    measure(Body body, std::uint64_t elements, BlockMeasure* first, BlockMeasure* second) {
    const unsigned lane = threadIdx.x % kWarp;
    const std::uint64_t block = (std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp;
    const std::uint64_t begin = block * codec::deadzone::kSquareBlock;
    if (begin >= elements) return;  // the whole warp
    const std::uint64_t left = elements - begin;
    const auto count = static_cast<std::uint32_t>(
        left < codec::deadzone::kSquareBlock ? left : codec::deadzone::kSquareBlock);
    Tally one, two;
    for_each_ahead(
        lane, count, kWarp, [&](std::uint32_t i) { return body.load(begin + i); },
        [&](std::uint32_t i, const auto& loaded) {
            const Two values = body.apply(begin + i, loaded);
            one.add(values.first, i);
            two.add(values.second, i);
        });
    one.fold();
    two.fold();
    if (lane != 0) return;
    first[block] = one.of;
    if (second != nullptr) second[block] = two.of;
}

}  // namespace fedllm::kernels::cuda::compress
