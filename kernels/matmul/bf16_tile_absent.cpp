// For processors that are not x86-64: linked instead of bf16_tile_avx512.cpp.
#include "kernels/matmul/bf16_tile.hpp"

namespace fedllm::kernels {

Bf16Tile bf16_tile() { return nullptr; }

}  // namespace fedllm::kernels
