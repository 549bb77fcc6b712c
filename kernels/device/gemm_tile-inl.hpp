// The one matrix micro-kernel and its packing, used by matmul, LoRA and attention: C (+)= A B for a tile.
//
// A is packed into strips of up to kStripRows rows, B into panels of up to two vectors of columns; inside
// both, one step of depth is contiguous. Each element of C is one chain of fused multiply-adds in the order
// of depth, so it does not depend on where strips, panels and tiles begin.
#if defined(FEDLLM_KERNELS_DEVICE_GEMM_TILE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FEDLLM_KERNELS_DEVICE_GEMM_TILE_INL
#undef FEDLLM_KERNELS_DEVICE_GEMM_TILE_INL
#else
#define FEDLLM_KERNELS_DEVICE_GEMM_TILE_INL
#endif

#include <algorithm>
#include <cstddef>

#include "hwy/cache_control.h"
#include "kernels/device/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {

// Rows x 2 accumulators fill the registers: 28 of 32 with AVX-512, 12 of 16 with AVX2, 24 of 32 with NEON.
#if HWY_MAX_BYTES == 64
inline constexpr std::size_t kStripRows = 14;
#elif HWY_MAX_BYTES == 32
inline constexpr std::size_t kStripRows = 6;
#elif HWY_ARCH_ARM
inline constexpr std::size_t kStripRows = 12;
#else
inline constexpr std::size_t kStripRows = 4;
#endif
inline constexpr std::size_t kLanes = hn::MaxLanes(Floats());
inline constexpr std::size_t kPanelCols = 2 * kLanes;
// Packing writes whole vectors: this much behind a strip may be overwritten.
inline constexpr std::size_t kPackSlack = kLanes;
// While the strips of a tile pass, each asks for its share of the next panel, this much per step of depth.
inline constexpr std::size_t kAheadStep = kPanelCols > 8 ? kPanelCols / 8 : 1;
// How far ahead packing asks for its input, whose rows are too far apart for the processor to guess.
inline constexpr std::size_t kStepsAhead = 16;
inline constexpr std::size_t kLineFloats = 16;
// Most rows that are packed at once, 8 strips or at least 64 rows; and their strips, with tails of 8, 4, 2
// and 1.
inline constexpr std::size_t kTileRows =
    std::max<std::size_t>(8, (64 + kStripRows - 1) / kStripRows) * kStripRows;
inline constexpr std::size_t kTileStrips = kTileRows / kStripRows + 4;

// Where a strip or panel that holds `left` remaining rows or columns ends. Row counts are those tile_rows
// knows; each is a multiple of the lanes or at most as many, which the overlapping stores of packing rely on.
// 16 rows, a usual rank, are two strips of 8: a strip of 2 has too few sums to hide the latency of adding.
HWY_INLINE std::size_t strip_rows(std::size_t left) {
    if (kStripRows == 14 && left == 16) return 8;
    for (const std::size_t rows : {kStripRows, std::size_t{8}, std::size_t{4}, std::size_t{2}}) {
        if (rows <= kStripRows && rows <= left) return rows;
    }
    return 1;
}
HWY_INLINE std::size_t panel_cols(std::size_t left) { return left > kLanes ? kPanelCols : kLanes; }
HWY_INLINE std::size_t padded_cols(std::size_t cols) { return (cols + kLanes - 1) / kLanes * kLanes; }

#if HWY_TARGET != HWY_SCALAR  // the baseline of Highway 1.0.3 has one lane and no blocks
// Parts of 128 bits: out[q] = part q of v[0], v[step], v[2 step], ... side by side, back into v.
HWY_INLINE void turn_parts(Vector* v, std::size_t step) {
    [[maybe_unused]] const Floats d;
#if HWY_MAX_BYTES == 64
    const Vector low02 = hn::ConcatLowerLower(d, v[2 * step], v[0]);
    const Vector low13 = hn::ConcatLowerLower(d, v[3 * step], v[step]);
    const Vector high02 = hn::ConcatUpperUpper(d, v[2 * step], v[0]);
    const Vector high13 = hn::ConcatUpperUpper(d, v[3 * step], v[step]);
    v[0] = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(low13), low02);
    v[step] = hn::OddEvenBlocks(low13, hn::SwapAdjacentBlocks(low02));
    v[2 * step] = hn::OddEvenBlocks(hn::SwapAdjacentBlocks(high13), high02);
    v[3 * step] = hn::OddEvenBlocks(high13, hn::SwapAdjacentBlocks(high02));
#elif HWY_MAX_BYTES == 32
    const Vector low = hn::ConcatLowerLower(d, v[step], v[0]);
    v[step] = hn::ConcatUpperUpper(d, v[step], v[0]);
    v[0] = low;
#else
    (void)v, (void)step;
#endif
}

// A square of kLanes rows, turned in registers: row i becomes column i.
HWY_INLINE void turn(Vector (&v)[kLanes]) {
    const Floats d;
    for (std::size_t i = 0; i < kLanes; i += 4) {
        const Vector low02 = hn::InterleaveLower(d, v[i], v[i + 2]);
        const Vector low13 = hn::InterleaveLower(d, v[i + 1], v[i + 3]);
        const Vector high02 = hn::InterleaveUpper(d, v[i], v[i + 2]);
        const Vector high13 = hn::InterleaveUpper(d, v[i + 1], v[i + 3]);
        v[i] = hn::InterleaveLower(d, low02, low13);
        v[i + 1] = hn::InterleaveUpper(d, low02, low13);
        v[i + 2] = hn::InterleaveLower(d, high02, high13);
        v[i + 3] = hn::InterleaveUpper(d, high02, high13);
    }
    for (std::size_t i = 0; i < 4; ++i) turn_parts(v + i, 4);
}
#endif

// to[k * to_stride + i] = from[i * from_stride + k] * scale for i < count <= kLanes, k < depth. Lanes beyond
// `count` are copies of the last row. Whole squares are turned in registers: each cache line of a row is read
// once, for rows a power of two apart meet in the same few lines of the cache.
HWY_INLINE void pack_turned(const float* HWY_RESTRICT from, std::size_t from_stride, std::size_t count,
                            std::size_t depth, float scale, float* HWY_RESTRICT to, std::size_t to_stride) {
    const float* rows[kLanes];
    for (std::size_t i = 0; i < kLanes; ++i) rows[i] = from + std::min(i, count - 1) * from_stride;
    std::size_t k = 0;
#if HWY_TARGET != HWY_SCALAR
    const Floats d;
    const Vector factor = hn::Set(d, scale);
    for (; k + kLanes <= depth; k += kLanes) {
        Vector square[kLanes];
        for (std::size_t i = 0; i < kLanes; ++i) __builtin_prefetch(rows[i] + count * from_stride + k, 0, 2);
        for (std::size_t i = 0; i < kLanes; ++i) square[i] = hn::Mul(hn::LoadU(d, rows[i] + k), factor);
        turn(square);
        for (std::size_t i = 0; i < kLanes; ++i) hn::StoreU(square[i], d, to + (k + i) * to_stride);
    }
#endif
    for (; k < depth; ++k) {
        for (std::size_t i = 0; i < kLanes; ++i) to[k * to_stride + i] = rows[i][k] * scale;
    }
}

// A matrix operand in f32 of which one of the two strides is 1. `outer` runs over rows of A or columns of B.
struct Operand {
    const float* data;
    std::size_t outer_stride;
    std::size_t depth_stride;

    Operand from(std::size_t outer) const {
        return {data + outer * outer_stride, outer_stride, depth_stride};
    }
};

// Steps [first, first + count) of a packed product `total` deep: a product may be packed in parts.
struct Depth {
    std::size_t first, count, total;
};
constexpr Depth whole(std::size_t depth) { return {0, depth, depth}; }

// What pack_a writes for up to kTileRows rows; pack_b writes padded_cols(cols) * depth.
constexpr std::size_t packed_a_floats(std::size_t rows, std::size_t depth) {
    return rows * depth + kTileStrips * kPackSlack;
}

// One group of `width` outer positions (a strip or a panel), of which `valid` exist; its depth is contiguous.
HWY_INLINE void pack_group(Operand from, std::size_t valid, std::size_t width, std::size_t depth, float scale,
                           float* to) {
    for (std::size_t i = 0; i < valid; i += kLanes) {
        pack_turned(from.from(i).data, from.outer_stride, std::min(kLanes, valid - i), depth, scale, to + i,
                    width);
    }
}

// Rows that lie side by side at each step of depth: all strips take their share of a step while it is at
// hand.
HWY_INLINE void pack_a_straight(Operand a, std::size_t rows, Depth depth, float scale, float* to) {
    struct Strip {
        std::size_t row, rows;
        float* to;
    } strips[kTileStrips];
    std::size_t count = 0;
    for (std::size_t m = 0; m < rows; m += strips[count++].rows) {
        const std::size_t strip = strip_rows(rows - m);
        strips[count] = {m, strip, to + depth.first * strip};
        to += strip * depth.total + kPackSlack;
    }
    const Floats d;
    const Vector factor = hn::Set(d, scale);
    for (std::size_t k = 0; k < depth.count; ++k) {
        const float* step = a.data + k * a.depth_stride;
        const float* later = a.data + std::min(k + kStepsAhead, depth.count - 1) * a.depth_stride;
        for (std::size_t m = 0; m < rows; m += kLineFloats) hwy::Prefetch(later + m);
        for (std::size_t s = 0; s < count; ++s) {
            for (std::size_t i = 0; i < strips[s].rows; i += kLanes) {
                const std::size_t row = strips[s].row + i;
                hn::StoreU(hn::Mul(load_n(d, step + row, rows - row), factor), d,
                           strips[s].to + k * strips[s].rows + i);
            }
        }
    }
}

inline void pack_a(Operand a, std::size_t rows, Depth depth, float scale, float* to) {
    if (a.depth_stride != 1) return pack_a_straight(a, rows, depth, scale, to);
    for (std::size_t m = 0; m < rows;) {
        const std::size_t strip = strip_rows(rows - m);
        pack_group(a.from(m), strip, strip, depth.count, scale, to + depth.first * strip);
        to += strip * depth.total + kPackSlack;
        m += strip;
    }
}

// Columns that lie side by side: likewise, step by step through all panels. Zeros behind the last column.
HWY_INLINE void pack_b_straight(Operand b, std::size_t cols, Depth depth, float* to) {
    const Floats d;
    for (std::size_t k = 0; k < depth.count; ++k) {
        const float* step = b.data + k * b.depth_stride;
        const float* later = b.data + std::min(k + kStepsAhead, depth.count - 1) * b.depth_stride;
        for (std::size_t n = 0; n < cols; n += kLineFloats) hwy::Prefetch(later + n);
        for (std::size_t n = 0; n < cols;) {
            const std::size_t panel = panel_cols(cols - n);
            float* at = to + n * depth.total + (depth.first + k) * panel;
            const std::size_t end = std::min(cols, n + panel);
            for (; n < end; n += kLanes, at += kLanes) {
                hn::StoreU(load_n(d, step + n, cols - n), d, at);
            }
        }
    }
}

inline void pack_b(Operand b, std::size_t cols, Depth depth, float* to) {
    if (b.depth_stride != 1) return pack_b_straight(b, cols, depth, to);
    for (std::size_t n = 0; n < cols;) {
        const std::size_t panel = panel_cols(cols - n);
        pack_group(b.from(n), std::min(panel, cols - n), panel, depth.count, 1.0f, to + depth.first * panel);
        to += panel * depth.total;
        n += panel;
    }
}

template <std::size_t kRows, std::size_t kVectors>
HWY_INLINE void tile(std::size_t depth, const float* HWY_RESTRICT a, const float* HWY_RESTRICT b,
                     const float* ahead, float* HWY_RESTRICT c, std::size_t c_pitch, std::size_t cols,
                     bool accumulate) {
    const Floats d;
    for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t v = 0; v < kVectors; ++v) __builtin_prefetch(c + r * c_pitch + v * kLanes, 1, 3);
    }
    Vector sums[kRows][kVectors];
    for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
    }
    for (std::size_t k = 0; k < depth; ++k) {
        Vector columns[kVectors];
        __builtin_prefetch(ahead + k * kAheadStep, 0, 2);
        for (std::size_t v = 0; v < kVectors; ++v) columns[v] = hn::LoadU(d, b + (k * kVectors + v) * kLanes);
        for (std::size_t r = 0; r < kRows; ++r) {
            const Vector row = hn::Set(d, a[k * kRows + r]);
            for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(row, columns[v], sums[r][v]);
        }
    }
    for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t v = 0; v < kVectors && v * kLanes < cols; ++v) {
            float* at = c + r * c_pitch + v * kLanes;
            const std::size_t count = cols - v * kLanes;
            store_n(d, accumulate ? hn::Add(load_n(d, at, count), sums[r][v]) : sums[r][v], at, count);
        }
    }
}

template <std::size_t kVectors>
HWY_NOINLINE void tile_rows(std::size_t rows, std::size_t depth, const float* a, const float* b,
                            const float* ahead, float* c, std::size_t c_pitch, std::size_t cols,
                            bool accumulate) {
    if (rows == kStripRows)
        return tile<kStripRows, kVectors>(depth, a, b, ahead, c, c_pitch, cols, accumulate);
    if constexpr (kStripRows > 8) {
        if (rows == 8) return tile<8, kVectors>(depth, a, b, ahead, c, c_pitch, cols, accumulate);
    }
    if (rows == 4) return tile<4, kVectors>(depth, a, b, ahead, c, c_pitch, cols, accumulate);
    if (rows == 2) return tile<2, kVectors>(depth, a, b, ahead, c, c_pitch, cols, accumulate);
    tile<1, kVectors>(depth, a, b, ahead, c, c_pitch, cols, accumulate);
}

// Steps of depth that matter; elsewhere A or B is zero, or the output is not wanted.
struct Range {
    std::size_t begin, end;
};

// C (rows x cols) = or += A B, both packed. The panel stays in the caches while the strips pass. `range_of`
// says for rows [m, m + rows) and columns [n, n + cols) which steps to sum; where none, C is left as it is.
template <class RangeOf>
HWY_INLINE void multiply_packed(std::size_t rows, std::size_t cols, std::size_t depth, const float* a,
                                const float* b, float* c, std::size_t c_pitch, bool accumulate,
                                RangeOf&& range_of) {
    for (std::size_t n = 0; n < cols;) {
        const std::size_t panel = panel_cols(cols - n);
        const std::size_t valid = std::min(panel, cols - n);
        const float* strip_data = a;
        const float* ahead = b + panel * depth;
        for (std::size_t m = 0; m < rows;) {
            const std::size_t strip = strip_rows(rows - m);
            const Range range = range_of(m, strip, n, valid);
            const auto body = panel == kPanelCols ? tile_rows<2> : tile_rows<1>;
            if (range.begin < range.end || depth == 0) {  // without depth, zeros are written
                body(strip, range.end - range.begin, strip_data + range.begin * strip,
                     b + range.begin * panel, ahead, c + m * c_pitch + n, c_pitch, valid, accumulate);
            }
            strip_data += strip * depth + kPackSlack;
            ahead += depth * kAheadStep;
            m += strip;
        }
        b += panel * depth;
        n += panel;
    }
}

inline void multiply_packed(std::size_t rows, std::size_t cols, std::size_t depth, const float* a,
                            const float* b, float* c, std::size_t c_pitch, bool accumulate) {
    multiply_packed(rows, cols, depth, a, b, c, c_pitch, accumulate,
                    [depth](std::size_t, std::size_t, std::size_t, std::size_t) {
                        return Range{0, depth};
                    });
}

}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#endif
