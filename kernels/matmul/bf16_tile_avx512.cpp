// vdpbf16ps is not in Highway 1.0.3, so this file uses intrinsics. One instruction multiplies 16 pairs of
// bf16 with 16 others and adds the two products of a pair to a f32 lane; subnormal operands count as zero.
#include <immintrin.h>

#include <algorithm>

#include "kernels/matmul/bf16_tile.hpp"

#define FEDLLM_AVX512_BF16 __attribute__((target("avx512f,avx512bf16")))

namespace fedllm::kernels {
namespace {

constexpr std::size_t kLanes = 16;

template <std::size_t kRows, std::size_t kVectors>
FEDLLM_AVX512_BF16 __attribute__((always_inline)) inline void write(const __m512 (&sums)[kRows][kVectors],
                                                                    float* c, std::size_t c_pitch,
                                                                    std::size_t cols, bool accumulate) {
    for (std::size_t v = 0; v < kVectors && v * kLanes < cols; ++v) {
        const std::size_t count = std::min(kLanes, cols - v * kLanes);
        const auto mask = static_cast<__mmask16>((1u << count) - 1u);
#pragma GCC unroll 14
        for (std::size_t r = 0; r < kRows; ++r) {
            float* const at = c + r * c_pitch + v * kLanes;
            __m512 sum = sums[r][v];
            if (accumulate) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), sum);
            _mm512_mask_storeu_ps(at, mask, sum);
        }
    }
}

template <std::size_t kRows, std::size_t kVectors>
FEDLLM_AVX512_BF16 void tile(Bf16Depth depth, const float* a, const float* b, const float* ahead, float* c,
                             std::size_t c_pitch, std::size_t cols, bool accumulate) {
    constexpr std::size_t kAheadStep = 2 * kLanes / 8;
    for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t v = 0; v < kVectors; ++v) __builtin_prefetch(c + r * c_pitch + v * kLanes, 1, 3);
    }
    __m512 sums[kRows][kVectors];
#pragma GCC unroll 14
    for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = _mm512_setzero_ps();
    }
    for (std::size_t k = 0; k < depth.pairs; ++k, a += kRows, b += kVectors * kLanes, ahead += kAheadStep) {
        __builtin_prefetch(ahead, 0, 2);
        __m512bh columns[kVectors];
#pragma GCC unroll 2
        for (std::size_t v = 0; v < kVectors; ++v) columns[v] = (__m512bh)_mm512_loadu_ps(b + v * kLanes);
#pragma GCC unroll 14
        for (std::size_t r = 0; r < kRows; ++r) {
            const __m512bh row = (__m512bh)_mm512_set1_ps(a[r]);
#pragma GCC unroll 2
            for (std::size_t v = 0; v < kVectors; ++v)
                sums[r][v] = _mm512_dpbf16_ps(sums[r][v], row, columns[v]);
        }
    }
    for (std::size_t k = 0; k < depth.floats; ++k, a += kRows, b += kVectors * kLanes) {
        __m512 columns[kVectors];
#pragma GCC unroll 2
        for (std::size_t v = 0; v < kVectors; ++v) columns[v] = _mm512_loadu_ps(b + v * kLanes);
#pragma GCC unroll 14
        for (std::size_t r = 0; r < kRows; ++r) {
            const __m512 row = _mm512_set1_ps(a[r]);
#pragma GCC unroll 2
            for (std::size_t v = 0; v < kVectors; ++v)
                sums[r][v] = _mm512_fmadd_ps(row, columns[v], sums[r][v]);
        }
    }
    write(sums, c, c_pitch, cols, accumulate);
}

template <std::size_t kVectors>
void tile_of(std::size_t rows, Bf16Depth depth, const float* a, const float* b, const float* ahead, float* c,
             std::size_t c_pitch, std::size_t cols, bool accumulate) {
    const auto body = rows == 14  ? tile<14, kVectors>
                      : rows == 8 ? tile<8, kVectors>
                      : rows == 4 ? tile<4, kVectors>
                      : rows == 2 ? tile<2, kVectors>
                                  : tile<1, kVectors>;
    body(depth, a, b, ahead, c, c_pitch, cols, accumulate);
}

void any_tile(std::size_t rows, std::size_t vectors, Bf16Depth depth, const float* a, const float* b,
              const float* ahead, float* c, std::size_t c_pitch, std::size_t cols, bool accumulate) {
    const auto body = vectors == 2 ? tile_of<2> : tile_of<1>;
    body(rows, depth, a, b, ahead, c, c_pitch, cols, accumulate);
}

}  // namespace

Bf16Tile bf16_tile() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16") ? any_tile : nullptr;
}

}  // namespace fedllm::kernels
