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
// Packing writes whole vectors: a strip may spill this much past its end, where the next will be written.
inline constexpr std::size_t kPackSlack = kLanes;

// Where a strip or panel that holds `left` remaining rows or columns ends. Row counts are those tile_rows
// knows; each is a multiple of the lanes or at most as many, which the overlapping stores of packing rely on.
HWY_INLINE std::size_t strip_rows(std::size_t left) {
    for (const std::size_t rows : {kStripRows, std::size_t{8}, std::size_t{4}, std::size_t{2}}) {
        if (rows <= kStripRows && rows <= left) return rows;
    }
    return 1;
}
HWY_INLINE std::size_t panel_cols(std::size_t left) { return left > kLanes ? kPanelCols : kLanes; }
HWY_INLINE std::size_t padded_cols(std::size_t cols) { return (cols + kLanes - 1) / kLanes * kLanes; }

#if HWY_TARGET != HWY_SCALAR  // the baseline of Highway 1.0.3 has one lane and no blocks
// Four floats from rows[0] + k, then four from rows[4] + k, and so on. (Masked merges would do, but crash GCC
// 12 under -fsanitize=thread.)
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const float* const* rows, std::size_t k) {
    constexpr std::size_t lanes = hn::MaxLanes(D());
    if constexpr (lanes == 4) {
        return hn::LoadU(d, rows[0] + k);
    } else {
        const hn::Half<D> half;
        return hn::Combine(d, load_blocks(half, rows + lanes / 2, k), load_blocks(half, rows, k));
    }
}
#endif

// to[k * to_stride + i] = from[i * from_stride + k] * scale for i < count <= kLanes, k < depth. Lanes beyond
// `count` are copies of the last row. 4 x 4 blocks are turned inside the 128-bit parts of the vectors.
HWY_INLINE void pack_turned(const float* HWY_RESTRICT from, std::size_t from_stride, std::size_t count,
                            std::size_t depth, float scale, float* HWY_RESTRICT to, std::size_t to_stride) {
    const Floats d;
    [[maybe_unused]] const Vector factor = hn::Set(d, scale);
    const float* rows[kLanes];
    for (std::size_t i = 0; i < kLanes; ++i) rows[i] = from + std::min(i, count - 1) * from_stride;
    std::size_t k = 0;
#if HWY_TARGET != HWY_SCALAR
    for (; k + 4 <= depth; k += 4) {
        Vector turned[4];
        for (std::size_t j = 0; j < 4; ++j) {
            turned[j] = hn::Mul(load_blocks(d, rows + j, k), factor);
        }
        const Vector low02 = hn::InterleaveLower(d, turned[0], turned[2]);
        const Vector low13 = hn::InterleaveLower(d, turned[1], turned[3]);
        const Vector high02 = hn::InterleaveUpper(d, turned[0], turned[2]);
        const Vector high13 = hn::InterleaveUpper(d, turned[1], turned[3]);
        hn::StoreU(hn::InterleaveLower(d, low02, low13), d, to + (k + 0) * to_stride);
        hn::StoreU(hn::InterleaveUpper(d, low02, low13), d, to + (k + 1) * to_stride);
        hn::StoreU(hn::InterleaveLower(d, high02, high13), d, to + (k + 2) * to_stride);
        hn::StoreU(hn::InterleaveUpper(d, high02, high13), d, to + (k + 3) * to_stride);
    }
#endif
    for (; k < depth; ++k) {
        for (std::size_t i = 0; i < kLanes; ++i) to[k * to_stride + i] = rows[i][k] * scale;
    }
}

// to[k * to_stride + i] = from[k * from_stride + i] * scale for i < count <= kLanes, zeros behind.
HWY_INLINE void pack_straight(const float* HWY_RESTRICT from, std::size_t from_stride, std::size_t count,
                              std::size_t depth, float scale, float* HWY_RESTRICT to, std::size_t to_stride) {
    const Floats d;
    const Vector factor = hn::Set(d, scale);
    for (std::size_t k = 0; k < depth; ++k) {
        hn::StoreU(hn::Mul(load_n(d, from + k * from_stride, count), factor), d, to + k * to_stride);
    }
}

// A matrix operand in f32 of which one of the two strides is 1. `outer` runs over rows of A or columns of B.
struct Operand {
    const float* data;
    std::size_t outer_stride;
    std::size_t depth_stride;
};

// One group of `width` outer positions (a strip or a panel), of which `valid` exist.
HWY_INLINE void pack_group(Operand from, std::size_t valid, std::size_t width, std::size_t depth, float scale,
                           float* to) {
    for (std::size_t i = 0; i < valid; i += kLanes) {
        const float* part = from.data + i * from.outer_stride;
        const std::size_t count = std::min(kLanes, valid - i);
        if (from.depth_stride == 1) {
            pack_turned(part, from.outer_stride, count, depth, scale, to + i, width);
        } else {
            pack_straight(part, from.depth_stride, count, depth, scale, to + i, width);
        }
    }
}

inline void pack_a(Operand a, std::size_t rows, std::size_t depth, float scale, float* to) {
    for (std::size_t m = 0; m < rows;) {
        const std::size_t strip = strip_rows(rows - m);
        pack_group({a.data + m * a.outer_stride, a.outer_stride, a.depth_stride}, strip, strip, depth, scale,
                   to);
        to += strip * depth;
        m += strip;
    }
}

inline void pack_b(Operand b, std::size_t cols, std::size_t depth, float* to) {
    for (std::size_t n = 0; n < cols;) {
        const std::size_t panel = panel_cols(cols - n);
        pack_group({b.data + n * b.outer_stride, b.outer_stride, b.depth_stride}, std::min(panel, cols - n),
                   panel, depth, 1.0f, to);
        to += panel * depth;
        n += panel;
    }
}

template <std::size_t kRows, std::size_t kVectors>
HWY_INLINE void tile(std::size_t depth, const float* HWY_RESTRICT a, const float* HWY_RESTRICT b,
                     float* HWY_RESTRICT c, std::size_t c_pitch, std::size_t cols, bool accumulate) {
    const Floats d;
    Vector sums[kRows][kVectors];
    for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
    }
    for (std::size_t k = 0; k < depth; ++k) {
        Vector columns[kVectors];
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
HWY_NOINLINE void tile_rows(std::size_t rows, std::size_t depth, const float* a, const float* b, float* c,
                            std::size_t c_pitch, std::size_t cols, bool accumulate) {
    if (rows == kStripRows) return tile<kStripRows, kVectors>(depth, a, b, c, c_pitch, cols, accumulate);
    if constexpr (kStripRows > 8) {
        if (rows == 8) return tile<8, kVectors>(depth, a, b, c, c_pitch, cols, accumulate);
    }
    if (rows == 4) return tile<4, kVectors>(depth, a, b, c, c_pitch, cols, accumulate);
    if (rows == 2) return tile<2, kVectors>(depth, a, b, c, c_pitch, cols, accumulate);
    tile<1, kVectors>(depth, a, b, c, c_pitch, cols, accumulate);
}

// C (rows x cols) = or += A B, both packed. The panel stays in the first-level cache while the strips pass.
inline void multiply_packed(std::size_t rows, std::size_t cols, std::size_t depth, const float* a,
                            const float* b, float* c, std::size_t c_pitch, bool accumulate) {
    for (std::size_t n = 0; n < cols;) {
        const std::size_t panel = panel_cols(cols - n);
        const std::size_t valid = std::min(panel, cols - n);
        const float* strip_data = a;
        for (std::size_t m = 0; m < rows;) {
            const std::size_t strip = strip_rows(rows - m);
            const auto body = panel == kPanelCols ? tile_rows<2> : tile_rows<1>;
            body(strip, depth, strip_data, b, c + m * c_pitch + n, c_pitch, valid, accumulate);
            strip_data += strip * depth;
            m += strip;
        }
        b += panel * depth;
        n += panel;
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#endif
