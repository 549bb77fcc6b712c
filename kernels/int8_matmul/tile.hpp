// The inner product of int8_matmul, for one tile. Private to the folder.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fedllm::kernels {

constexpr std::size_t kInt8TileRows = 14;
constexpr std::size_t kInt8TileCols = 32;

// sums[r][c] = sum over the depth of x[r][k] * (code of w[k][c] + 128). `x` has kInt8TileRows rows,
// `x_stride` bytes apart; the panel holds, for every four steps of depth, four bytes for each of its columns.
using Int8Tile = void (*)(const std::int8_t* x, std::size_t x_stride, const std::uint8_t* panel,
                          std::size_t fours, std::int32_t* sums);

// With AVX-512 VNNI; nullptr where the processor or the build lacks it.
Int8Tile vnni_tile();
// Anywhere, and slower than products in f32.
Int8Tile plain_int8_tile();

}  // namespace fedllm::kernels
