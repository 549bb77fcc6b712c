#include "kernels/matmul/gemm.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>

#include "common/base/result.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul/gemm_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/gemm_tile-inl.hpp"
#include "kernels/matmul/bf16-inl.hpp"
#include "kernels/matmul/bf16_tile.hpp"
#include "kernels/matmul/widen-inl.hpp"

// Blocking (Goto & van de Geijn 2008). A block of B, kDepthMax words x kColsMax, is widened and packed once
// and shared by all threads (2 MiB, streamed from the second- or third-level cache); each thread packs
// kTileRows rows of A (under 290 KiB, second-level cache) and multiplies.
#ifndef FEDLLM_KERNELS_MATMUL_GEMM_BLOCKS
#define FEDLLM_KERNELS_MATMUL_GEMM_BLOCKS
namespace fedllm::kernels {
namespace {

constexpr std::size_t kDepthMax = 640;
constexpr std::size_t kColsMax = 768;
constexpr std::size_t kPanelColsMax = 32;  // of any instruction set; blocks begin at multiples of it
constexpr std::size_t kPackCols = 2 * kPanelColsMax;  // unit of packing
constexpr std::size_t kWidenDepth = 128;              // steps that are widened before they are packed
static_assert(kDepthMax * (kColsMax + kPanelColsMax) <= ThreadPool::kSharedScratchFloats);

// What differs between instruction sets: rows of a tile and of a strip, and whether words can be pairs.
struct Geometry {
    std::size_t tile, strip;
    bool pairs;
};

// What the words of a packed segment hold (bf16-inl.hpp).
enum class Form { Floats, RoundedFloats, Pairs };
constexpr std::size_t steps_of(Form form) { return form == Form::Pairs ? 2 : 1; }

// A term's share of the block's depth, in steps; and in words, once packed.
struct Segment {
    GemmOperand a;
    GemmOperand b;
    float scale;
    Form form;
    std::size_t first_depth, depth;

    std::size_t words() const { return (depth + steps_of(form) - 1) / steps_of(form); }
};

// The part of the product that is in work: columns and depth of the packed block of B.
struct Block {
    Segment segments[2];
    std::size_t segment_count;
    Matrix c;
    std::size_t first_col, cols;
    std::size_t words;  // of all segments
    bool accumulate;
    float* packed_b;
};

}  // namespace
}  // namespace fedllm::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {
namespace {

static_assert(kPanelCols <= kPanelColsMax && kPanelColsMax % kPanelCols == 0);
static_assert(packed_a_floats(kTileRows, kDepthMax) <= ThreadPool::kThreadScratchFloats);

#if HWY_ARCH_X86 && HWY_MAX_BYTES == 64
Geometry TileGeometry() { return {kTileRows, kStripRows, bf16_tile() != nullptr}; }
#else
Geometry TileGeometry() { return {kTileRows, kStripRows, false}; }
#endif

void pack_a_as(Form form, Operand a, std::size_t rows, Depth depth, float scale, float* to) {
    if (form == Form::RoundedFloats) return pack_a<RoundedFloats>(a, rows, depth, scale, to);
#if HWY_ARCH_X86 && HWY_MAX_BYTES == 64
    if (form == Form::Pairs) return pack_a<Bf16Pairs>(a, rows, depth, scale, to);
#endif
    pack_a(a, rows, depth, scale, to);
}

void pack_b_as(Form form, Operand b, std::size_t cols, Depth depth, float* to) {
    if (form == Form::RoundedFloats) return pack_b<RoundedFloats>(b, cols, depth, to);
#if HWY_ARCH_X86 && HWY_MAX_BYTES == 64
    if (form == Form::Pairs) return pack_b<Bf16Pairs>(b, cols, depth, to);
#endif
    pack_b(b, cols, depth, to);
}

// Widens a few steps of depth at a time, while they stay in the first-level cache.
void pack_widened(const Segment& segment, std::size_t first_col, std::size_t cols, Depth depth, float* to) {
    constexpr std::size_t kPitch = kWidenDepth + 4;
    static_assert(kWidenDepth % 2 == 0);  // whole words
    const GemmOperand& b = segment.b;
    float* wide = ThreadPool::thread_scratch().data();
    const bool by_column = b.depth_stride == 1;  // a column of B is a row of the weight
    const std::size_t pitch = by_column ? b.outer_stride : b.depth_stride;
    for (std::size_t k = 0; k < depth.count; k += kWidenDepth) {
        const std::size_t count = std::min(kWidenDepth, depth.count - k);
        const Depth part{depth.first + k / steps_of(segment.form), count, depth.total};
        const std::size_t at = segment.first_depth + k;
        if (by_column) {
            for (std::size_t n = 0; n < cols; ++n) {
                widen_row(b.data, b.type, b.scales, b.block, pitch, first_col + n, at, count,
                          wide + n * kPitch);
            }
            pack_b_as(segment.form, {wide, kPitch, 1}, cols, part, to);
        } else {
            for (std::size_t i = 0; i < count; ++i) {
                widen_row(b.data, b.type, b.scales, b.block, pitch, at + i, first_col, cols,
                          wide + i * kPackCols);
            }
            pack_b_as(segment.form, {wide, 1, kPackCols}, cols, part, to);
        }
    }
}

// The operand, which is stored in elements of this type, from the segment's first step on.
template <class Element>
OperandOf<Element> stored_in(const GemmOperand& operand, const Segment& segment) {
    const auto* data = static_cast<const Element*>(operand.data) + segment.first_depth * operand.depth_stride;
    return {data, operand.outer_stride, operand.depth_stride};
}

// Columns of a block from `col` on: as they are where they need not be widened.
void pack_segment(const Segment& segment, std::size_t col, std::size_t cols, Depth depth, float* to) {
    const WeightType type = segment.b.type;
    if (type == WeightType::F32) {
        return pack_b_as(segment.form, stored_in<float>(segment.b, segment).from(col), cols, depth, to);
    }
#if HWY_ARCH_X86 && HWY_MAX_BYTES == 64
    if (type == WeightType::BF16 && segment.form == Form::Pairs) {
        return pack_b<StoredBf16Pairs>(stored_in<std::uint16_t>(segment.b, segment).from(col), cols, depth,
                                       to);
    }
#endif
    pack_widened(segment, col, cols, depth, to);
}

// Packs columns [first, first + kPackCols) of the block.
void PackColumns(const Block& block, std::size_t first) {
    const std::size_t cols = std::min(kPackCols, block.cols - first);
    float* to = block.packed_b + first * block.words;
    Depth depth{0, 0, block.words};
    for (std::size_t s = 0; s < block.segment_count; ++s, depth.first += block.segments[s - 1].words()) {
        depth.count = block.segments[s].depth;
        pack_segment(block.segments[s], block.first_col + first, cols, depth, to);
    }
}

// Rows [first_row, first_row + rows) of C times columns [first_col, first_col + cols) of the block.
void MultiplyTile(const Block& block, std::size_t first_row, std::size_t rows, std::size_t first_col,
                  std::size_t cols) {
    float* packed_a = ThreadPool::thread_scratch().data();
    Depth depth{0, 0, block.words};
    for (std::size_t s = 0; s < block.segment_count; ++s, depth.first += block.segments[s - 1].words()) {
        const Segment& segment = block.segments[s];
        depth.count = segment.depth;
        pack_a_as(segment.form, stored_in<float>(segment.a, segment).from(first_row), rows, depth,
                  segment.scale, packed_a);
    }
    const float* const packed_b = block.packed_b + first_col * block.words;
    float* const c = block.c.row(first_row) + block.first_col + first_col;
    if (block.segments[0].form != Form::Pairs) {
        return multiply_packed(rows, cols, block.words, packed_a, packed_b, c, block.c.pitch,
                               block.accumulate);
    }
    const std::size_t pairs = block.segments[0].words();  // a rider is in f32
    const Bf16Tile tile = bf16_tile();
    visit_tiles(rows, cols, block.words, packed_a, packed_b, [&](const TilePlace& at) {
        tile(at.rows, at.panel / kLanes, {pairs, block.words - pairs}, at.a, at.b, at.ahead,
             c + at.row * block.c.pitch + at.col, block.c.pitch, at.cols, block.accumulate);
    });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::kernels {
namespace {

HWY_EXPORT(TileGeometry);
HWY_EXPORT(PackColumns);
HWY_EXPORT(MultiplyTile);

constexpr std::size_t divide_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }
constexpr std::size_t round_up(std::size_t a, std::size_t b) { return divide_up(a, b) * b; }

// Tiles of C for the threads. All columns, so that A is packed once, unless that leaves too few tiles; then
// fewer columns, down to where packing A would show; then fewer rows.
struct Tiles {
    std::size_t rows, cols;
};
Tiles tiles_of(std::size_t rows, std::size_t cols, std::size_t threads) {
    constexpr std::size_t kColsMin = 4 * kPanelColsMax;
    const auto heights = HWY_DYNAMIC_DISPATCH(TileGeometry)();
    const std::size_t wanted = threads == 1 ? 1 : 4 * threads;
    Tiles tiles{heights.tile, cols};
    const std::size_t row_tiles = divide_up(rows, tiles.rows);
    if (row_tiles >= wanted) return tiles;
    tiles.cols = std::min(
        cols, std::max(kColsMin, round_up(divide_up(cols, divide_up(wanted, row_tiles)), kPanelColsMax)));
    const std::size_t col_tiles = divide_up(cols, tiles.cols);
    if (row_tiles * col_tiles >= wanted) return tiles;
    tiles.rows = std::min(tiles.rows, round_up(divide_up(rows, divide_up(wanted, col_tiles)), heights.strip));
    return tiles;
}

void multiply_block(ThreadPool& pool, const Block& block) {
    pool.parallel_for(divide_up(block.cols, kPackCols), [&](std::size_t i) {
        HWY_DYNAMIC_DISPATCH(PackColumns)(block, i * kPackCols);
    });
    const Tiles tiles = tiles_of(block.c.rows, block.cols, pool.threads());
    const std::size_t col_tiles = divide_up(block.cols, tiles.cols);
    pool.parallel_for(divide_up(block.c.rows, tiles.rows) * col_tiles, [&](std::size_t i) {
        const std::size_t row = i / col_tiles * tiles.rows;
        const std::size_t col = i % col_tiles * tiles.cols;
        HWY_DYNAMIC_DISPATCH(MultiplyTile)
        (block, row, std::min(tiles.rows, block.c.rows - row), col, std::min(tiles.cols, block.cols - col));
    });
}

void check(const GemmTerm& term) {
    const auto one_stride_is_1 = [](const GemmOperand& o) {
        return o.outer_stride == 1 || o.depth_stride == 1;
    };
    FEDLLM_CHECK(term.a.type == WeightType::F32, "matmul takes F32 activations");
    FEDLLM_CHECK(one_stride_is_1(term.a) && one_stride_is_1(term.b), "one stride of an operand is 1");
    const bool four_bit = term.b.type == WeightType::NF4 || term.b.type == WeightType::FP4;
    FEDLLM_CHECK((!four_bit && term.b.type != WeightType::Int8) || term.b.scales != nullptr,
                 "a quantised weight has scales");
    FEDLLM_CHECK(!four_bit || (std::has_single_bit(term.b.block) && term.b.block >= 32),
                 "blocks of 4-bit weights are a power of two of at least 32");
}

Form form_of(const GemmTerm& term) {
    if (term.operands == Operands::F32) return Form::Floats;
    return HWY_DYNAMIC_DISPATCH(TileGeometry)().pairs ? Form::Pairs : Form::RoundedFloats;
}

// Equal blocks of depth, a multiple of 4 words long, whose count follows from the depths alone.
void run(ThreadPool& pool, const GemmTerm& term, const GemmTerm* rider, Matrix c, Write write) {
    const Form form = form_of(term);
    const std::size_t extra = rider == nullptr ? 0 : rider->depth;
    const std::size_t words = divide_up(term.depth, steps_of(form));
    const std::size_t blocks = std::max<std::size_t>(1, divide_up(words, kDepthMax - extra));
    const std::size_t step = std::max<std::size_t>(4, round_up(divide_up(words, blocks), 4)) * steps_of(form);
    const std::size_t cols_step = round_up(divide_up(c.cols, divide_up(c.cols, kColsMax)), kPanelColsMax);
    Block block{{}, 1, c, 0, 0, 0, false, pool.shared_scratch().data()};
    for (block.first_col = 0; block.first_col < c.cols; block.first_col += cols_step) {
        block.cols = std::min(cols_step, c.cols - block.first_col);
        block.accumulate = write == Write::Accumulate;
        for (std::size_t first = 0; first == 0 || first < term.depth; first += step) {
            const std::size_t depth = std::min(step, term.depth - first);
            block.segments[0] = {term.a, term.b, term.scale, form, first, depth};
            block.segment_count = 1;
            if (first + depth == term.depth && rider != nullptr) {
                block.segments[1] = {rider->a, rider->b, rider->scale, Form::Floats, 0, extra};
                block.segment_count = 2;
            }
            block.words = block.segments[0].words() + (block.segment_count == 2 ? extra : 0);
            multiply_block(pool, block);
            block.accumulate = true;
        }
    }
}

}  // namespace

void gemm(ThreadPool& pool, const GemmTerm& term, Matrix c, Write write) {
    check(term);
    if (c.rows == 0 || c.cols == 0) return;
    if (term.depth == 0 && write == Write::Accumulate) return;
    run(pool, term, nullptr, c, write);
}

void gemm(ThreadPool& pool, const GemmTerm& term, const GemmTerm& rider, Matrix c, Write write) {
    constexpr std::size_t kRiderDepthMax =
        kDepthMax / 4;  // a deeper one would cut the first into small blocks
    check(term);
    check(rider);
    FEDLLM_CHECK(rider.operands == Operands::F32, "a rider is in f32");
    if (c.rows == 0 || c.cols == 0) return;
    if (rider.depth <= kRiderDepthMax) return run(pool, term, &rider, c, write);
    run(pool, term, nullptr, c, write);
    run(pool, rider, nullptr, c, Write::Accumulate);
}

}  // namespace fedllm::kernels
#endif
