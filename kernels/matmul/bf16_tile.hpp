// The inner product of gemm with bf16 operands, for one tile. Private to the folder.
#pragma once

#include <cstddef>

namespace fedllm::kernels {

// A product of packed words (kernels/device/gemm_tile-inl.hpp, AVX-512's strips and panels) whose first
// `pairs` words are two bf16 each, two steps of depth, and the other `floats` one f32 each.
struct Bf16Depth {
    std::size_t pairs, floats;
};

// c (rows x cols) = or += a b. `rows` is 14, 8, 4, 2 or 1; the panel of `vectors` (1 or 2) times 16 columns
// holds `cols`. `ahead` is asked for, a share per word.
using Bf16Tile = void (*)(std::size_t rows, std::size_t vectors, Bf16Depth depth, const float* a,
                          const float* b, const float* ahead, float* c, std::size_t c_pitch, std::size_t cols,
                          bool accumulate);

// With AVX-512 BF16; nullptr where the processor or the build lacks it.
Bf16Tile bf16_tile();

}  // namespace fedllm::kernels
