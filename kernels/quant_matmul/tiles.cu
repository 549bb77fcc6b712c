// NF4 in the order of bitsandbytes into the order of kernels/quant_matmul/fragments.cuh.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "kernels/quant_matmul/fragments.cuh"

namespace fedllm::kernels::cuda {
namespace {

constexpr unsigned kThreads = 256;

// A thread makes the 16 bytes of one lane of one slab: word t is bytes i and i + 4 of 8 of rows 2 g, 2 g + 1.
__global__ void order_codes(const std::uint8_t* from, std::uint8_t* to, std::size_t n, std::size_t k) {
    const std::size_t blocks = k / nf4::kBlock;
    const std::size_t at = std::size_t{blockIdx.x} * kThreads + threadIdx.x;
    if (at >= n / nf4::kSlabRows * blocks * kWarp) return;
    const std::size_t slab = at / kWarp / blocks, block = at / kWarp % blocks;
    const unsigned lane = at % kWarp, g = lane / 4, i = lane % 4;
    const std::uint8_t* even =
        from + (slab * nf4::kSlabRows + 2 * g) * (k / 2) + block * (nf4::kBlock / 2) + i;
    const std::uint8_t* odd = even + k / 2;
    std::uint32_t word[4];
    for (unsigned t = 0; t < 4; ++t) {
        word[t] = even[8 * t] | odd[8 * t] << 8 | even[8 * t + 4] << 16 |
                  static_cast<std::uint32_t>(odd[8 * t + 4]) << 24;
    }
    reinterpret_cast<uint4*>(to)[at] = make_uint4(word[0], word[1], word[2], word[3]);
}

__global__ void turn_scales(const float* from, float* to, std::size_t n, std::size_t blocks) {
    const std::size_t at = std::size_t{blockIdx.x} * kThreads + threadIdx.x;
    if (at < n * blocks) to[at] = from[at % n * blocks + at / n];
}

}  // namespace

bool nf4_matmul_supports(const WeightView& weight) {
    return weight.type == WeightType::NF4 && weight.block == nf4::kBlock && weight.rows > 0 &&
           weight.cols > 0 && weight.rows % nf4::kSlabRows == 0 && weight.cols % nf4::kBlock == 0;
}

std::size_t nf4_tile_bytes(std::size_t n, std::size_t k) { return n * k / 2; }

void make_nf4_tiles(const Stream& stream, WeightView from, std::uint8_t* codes, float* scales) {
    const std::size_t blocks = from.cols / nf4::kBlock;
    launch(stream,
           {.grid = {blocks_for(from.rows / nf4::kSlabRows * blocks * kWarp, kThreads)}, .threads = kThreads},
           order_codes, static_cast<const std::uint8_t*>(from.data), codes, from.rows, from.cols);
    launch(stream, {.grid = {blocks_for(from.rows * blocks, kThreads)}, .threads = kThreads}, turn_scales,
           from.scales, scales, from.rows, blocks);
}

}  // namespace fedllm::kernels::cuda
