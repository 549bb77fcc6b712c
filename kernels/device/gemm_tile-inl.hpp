// The one matrix micro-kernel and its packing, used by matmul, LoRA and attention: C (+)= A B for a tile.
//
// A is packed into strips of up to kStripRows rows, B into panels of up to two vectors of columns; inside
// both, one step of depth is contiguous. Each element of C is one chain of fused multiply-adds in the order
// of depth, so it does not depend on where strips, panels and tiles begin.
//
// What is packed are 32-bit words. A form says what a word holds: one float (WholeFloats), or what
// kernels/matmul/bf16-inl.hpp makes of one or two. Lengths of packed depth count words.
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
inline constexpr std::size_t kLineBytes = 64;
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

// A word is a step of depth: one float, times a scale.
class WholeFloats {
public:
    using Element = float;
    static constexpr std::size_t kSteps = 1;  // of depth, in a word
    explicit WholeFloats(float scale) : scale_(scale), factor_(hn::Set(Floats(), scale)) {}

    // kLanes words of steps that lie side by side.
    HWY_INLINE Vector along(const float* p) const { return hn::Mul(hn::LoadU(Floats(), p), factor_); }
    // The word of the next up to kSteps of `left` steps.
    HWY_INLINE float one(const float* p, std::size_t) const { return *p * scale_; }
    // A word for each of `count` positions side by side, whose next step lies `stride` behind.
    HWY_INLINE Vector across(const float* p, std::size_t, std::size_t, std::size_t count) const {
        return hn::Mul(load_n(Floats(), p, count), factor_);
    }

private:
    float scale_;
    Vector factor_;
};

// to[k * to_stride + i] = word k of row i of `from`, for i < count <= kLanes, over `steps` steps of depth.
// Lanes beyond `count` are copies of the last row. Whole squares are turned in registers: each cache line of
// a row is read once, for rows a power of two apart meet in the same few lines of the cache.
template <class Form>
HWY_INLINE void pack_turned(const Form& form, const typename Form::Element* HWY_RESTRICT from,
                            std::size_t from_stride, std::size_t count, std::size_t steps,
                            float* HWY_RESTRICT to, std::size_t to_stride) {
    constexpr std::size_t kSteps = Form::kSteps;
    const typename Form::Element* rows[kLanes];
    for (std::size_t i = 0; i < kLanes; ++i) rows[i] = from + std::min(i, count - 1) * from_stride;
    std::size_t k = 0;
#if HWY_TARGET != HWY_SCALAR
    for (; (k + kLanes) * kSteps <= steps; k += kLanes) {
        Vector square[kLanes];
        for (std::size_t i = 0; i < kLanes; ++i) {
            for (std::size_t at = 0; at < kLanes * kSteps; at += kLineBytes / sizeof(*from)) {
                __builtin_prefetch(rows[i] + count * from_stride + k * kSteps + at, 0, 2);
            }
        }
        for (std::size_t i = 0; i < kLanes; ++i) square[i] = form.along(rows[i] + k * kSteps);
        turn(square);
        for (std::size_t i = 0; i < kLanes; ++i) hn::StoreU(square[i], Floats(), to + (k + i) * to_stride);
    }
#endif
    for (; k * kSteps < steps; ++k) {
        for (std::size_t i = 0; i < kLanes; ++i) {
            to[k * to_stride + i] = form.one(rows[i] + k * kSteps, steps - k * kSteps);
        }
    }
}

// A matrix operand of which one of the two strides is 1. `outer` runs over rows of A or columns of B.
template <class Element>
struct OperandOf {
    const Element* data;
    std::size_t outer_stride;
    std::size_t depth_stride;

    OperandOf from(std::size_t outer) const {
        return {data + outer * outer_stride, outer_stride, depth_stride};
    }
};
using Operand = OperandOf<float>;
template <class Form>
using OperandFor = OperandOf<typename Form::Element>;

// `count` steps of depth become the words from `first` on of a packed product `total` words deep: a product
// may be packed in parts.
struct Depth {
    std::size_t first, count, total;
};
constexpr Depth whole(std::size_t depth) { return {0, depth, depth}; }

// What pack_a writes for up to kTileRows rows; pack_b writes padded_cols(cols) * depth.
constexpr std::size_t packed_a_floats(std::size_t rows, std::size_t depth) {
    return rows * depth + kTileStrips * kPackSlack;
}

// One group of `width` outer positions (a strip or a panel), of which `valid` exist; its depth is contiguous.
template <class Form>
HWY_INLINE void pack_group(const Form& form, OperandFor<Form> from, std::size_t valid, std::size_t width,
                           std::size_t steps, float* to) {
    for (std::size_t i = 0; i < valid; i += kLanes) {
        pack_turned(form, from.from(i).data, from.outer_stride, std::min(kLanes, valid - i), steps, to + i,
                    width);
    }
}

// Asks for a step that will soon be packed, of the first `outer` positions.
template <class Form>
HWY_INLINE void ask_ahead(OperandFor<Form> from, std::size_t outer, Depth depth, std::size_t k) {
    for (std::size_t part = 0; part < Form::kSteps; ++part) {
        const auto* later = from.data + std::min(k + part + kStepsAhead, depth.count - 1) * from.depth_stride;
        for (std::size_t i = 0; i < outer; i += kLineBytes / sizeof(*later)) hwy::Prefetch(later + i);
    }
}

// Rows that lie side by side at each step of depth: all strips take their share of a step while it is at
// hand.
template <class Form>
HWY_INLINE void pack_a_straight(const Form& form, OperandFor<Form> a, std::size_t rows, Depth depth,
                                float* to) {
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
    for (std::size_t k = 0, word = 0; k < depth.count; k += Form::kSteps, ++word) {
        const auto* step = a.data + k * a.depth_stride;
        ask_ahead<Form>(a, rows, depth, k);
        for (std::size_t s = 0; s < count; ++s) {
            for (std::size_t i = 0; i < strips[s].rows; i += kLanes) {
                const std::size_t row = strips[s].row + i;
                hn::StoreU(form.across(step + row, a.depth_stride, depth.count - k, rows - row), Floats(),
                           strips[s].to + word * strips[s].rows + i);
            }
        }
    }
}

template <class Form = WholeFloats>
inline void pack_a(OperandFor<Form> a, std::size_t rows, Depth depth, float scale, float* to) {
    const Form form(scale);
    if (a.depth_stride != 1) return pack_a_straight(form, a, rows, depth, to);
    for (std::size_t m = 0; m < rows;) {
        const std::size_t strip = strip_rows(rows - m);
        pack_group(form, a.from(m), strip, strip, depth.count, to + depth.first * strip);
        to += strip * depth.total + kPackSlack;
        m += strip;
    }
}

// Columns that lie side by side: likewise, step by step through all panels. Zeros behind the last column.
template <class Form>
HWY_INLINE void pack_b_straight(const Form& form, OperandFor<Form> b, std::size_t cols, Depth depth,
                                float* to) {
    for (std::size_t k = 0, word = depth.first; k < depth.count; k += Form::kSteps, ++word) {
        const auto* step = b.data + k * b.depth_stride;
        ask_ahead<Form>(b, cols, depth, k);
        for (std::size_t n = 0; n < cols;) {
            const std::size_t panel = panel_cols(cols - n);
            float* at = to + n * depth.total + word * panel;
            const std::size_t end = std::min(cols, n + panel);
            for (; n < end; n += kLanes, at += kLanes) {
                hn::StoreU(form.across(step + n, b.depth_stride, depth.count - k, cols - n), Floats(), at);
            }
        }
    }
}

template <class Form = WholeFloats>
inline void pack_b(OperandFor<Form> b, std::size_t cols, Depth depth, float* to) {
    const Form form(1.0f);
    if (b.depth_stride != 1) return pack_b_straight(form, b, cols, depth, to);
    for (std::size_t n = 0; n < cols;) {
        const std::size_t panel = panel_cols(cols - n);
        pack_group(form, b.from(n), std::min(panel, cols - n), panel, depth.count, to + depth.first * panel);
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

// A strip of A and a panel of B, whose product is one tile of C.
struct TilePlace {
    std::size_t row, rows, col, cols, panel;  // `cols` of the panel's columns exist
    const float *a, *b;
    const float* ahead;  // to be asked for while this is computed
};

// Visits the tiles of C (rows x cols). The panel stays in the caches while the strips pass.
template <class Visit>
HWY_INLINE void visit_tiles(std::size_t rows, std::size_t cols, std::size_t depth, const float* a,
                            const float* b, Visit&& visit) {
    for (std::size_t n = 0; n < cols;) {
        const std::size_t panel = panel_cols(cols - n);
        const float* strip_data = a;
        const float* ahead = b + panel * depth;
        for (std::size_t m = 0; m < rows;) {
            const std::size_t strip = strip_rows(rows - m);
            visit(TilePlace{m, strip, n, std::min(panel, cols - n), panel, strip_data, b, ahead});
            strip_data += strip * depth + kPackSlack;
            ahead += depth * kAheadStep;
            m += strip;
        }
        b += panel * depth;
        n += panel;
    }
}

// C (rows x cols) = or += A B, both packed. `range_of` says for rows [m, m + rows) and columns [n, n + cols)
// which steps to sum; where none, C is left as it is.
template <class RangeOf>
HWY_INLINE void multiply_packed(std::size_t rows, std::size_t cols, std::size_t depth, const float* a,
                                const float* b, float* c, std::size_t c_pitch, bool accumulate,
                                RangeOf&& range_of) {
    visit_tiles(rows, cols, depth, a, b, [&](const TilePlace& at) {
        const Range range = range_of(at.row, at.rows, at.col, at.cols);
        const auto body = at.panel == kPanelCols ? tile_rows<2> : tile_rows<1>;
        if (range.begin < range.end || depth == 0) {  // without depth, zeros are written
            body(at.rows, range.end - range.begin, at.a + range.begin * at.rows,
                 at.b + range.begin * at.panel, at.ahead, c + at.row * c_pitch + at.col, c_pitch, at.cols,
                 accumulate);
        }
    });
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
