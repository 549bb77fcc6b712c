// vpdpbusd is not in Highway 1.0.3, so this file uses intrinsics. One instruction does 64 products of an
// unsigned with a signed byte and adds them four by four: 28 chains fill the registers, a product with 14
// rows and 32 columns.
#include <immintrin.h>

#include <cstring>

#include "kernels/int8_matmul/tile.hpp"

namespace fedllm::kernels {
namespace {

__attribute__((target("avx512f,avx512vnni"))) void tile(const std::int8_t* x, std::size_t x_stride,
                                                        const std::uint8_t* panel, std::size_t fours,
                                                        std::int32_t* sums) {
    __m512i sum[kInt8TileRows][2];
#pragma GCC unroll 14
    for (std::size_t r = 0; r < kInt8TileRows; ++r) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
    for (std::size_t i = 0; i < fours; ++i) {
        const __m512i left = _mm512_loadu_si512(panel + i * 128);
        const __m512i right = _mm512_loadu_si512(panel + i * 128 + 64);
#pragma GCC unroll 14
        for (std::size_t r = 0; r < kInt8TileRows; ++r) {
            std::int32_t four;
            std::memcpy(&four, x + r * x_stride + i * 4, sizeof four);
            const __m512i spread = _mm512_set1_epi32(four);
            sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], left, spread);
            sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], right, spread);
        }
    }
#pragma GCC unroll 14
    for (std::size_t r = 0; r < kInt8TileRows; ++r) {
        _mm512_storeu_si512(sums + r * kInt8TileCols, sum[r][0]);
        _mm512_storeu_si512(sums + r * kInt8TileCols + 16, sum[r][1]);
    }
}

}  // namespace

Int8Tile vnni_tile() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni") ? tile : nullptr;
}

}  // namespace fedllm::kernels
