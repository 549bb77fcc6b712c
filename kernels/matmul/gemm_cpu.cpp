#include "kernels/matmul/gemm.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>

#include "common/base/result.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul/gemm_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/gemm_tile-inl.hpp"
#include "kernels/matmul/widen-inl.hpp"

// Blocking (Goto & van de Geijn 2008). A block of B, kDepthMax x kColsMax, is widened and packed once and
// shared by all threads (2 MiB, streamed from the second- or third-level cache); each thread packs kTileRows
// rows of A (under 290 KiB, second-level cache) and multiplies.
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

// Rows of a tile and of a strip, which differ between instruction sets.
struct Heights {
    std::size_t tile, strip;
};

// A term's share of the block's depth.
struct Segment {
    GemmOperand a;
    GemmOperand b;
    float scale;
    std::size_t first_depth, depth;
};

// The part of the product that is in work: columns and depth of the packed block of B.
struct Block {
    Segment segments[2];
    std::size_t segment_count;
    Matrix c;
    std::size_t first_col, cols;
    std::size_t depth;  // of all segments
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

Heights TileHeights() { return {kTileRows, kStripRows}; }

// Widens a few steps of depth at a time, while they stay in the first-level cache.
void pack_widened(const GemmOperand& b, std::size_t first_col, std::size_t cols, std::size_t first_depth,
                  Depth depth, float* to) {
    constexpr std::size_t kPitch = kWidenDepth + 4;
    float* wide = ThreadPool::thread_scratch().data();
    const bool by_column = b.depth_stride == 1;  // a column of B is a row of the weight
    const std::size_t pitch = by_column ? b.outer_stride : b.depth_stride;
    for (std::size_t k = 0; k < depth.count; k += kWidenDepth) {
        const std::size_t count = std::min(kWidenDepth, depth.count - k);
        const Depth part{depth.first + k, count, depth.total};
        const std::size_t at = first_depth + k;
        if (by_column) {
            for (std::size_t n = 0; n < cols; ++n) {
                widen_row(b.data, b.type, b.scales, b.block, pitch, first_col + n, at, count,
                          wide + n * kPitch);
            }
            pack_b({wide, kPitch, 1}, cols, part, to);
        } else {
            for (std::size_t i = 0; i < count; ++i) {
                widen_row(b.data, b.type, b.scales, b.block, pitch, at + i, first_col, cols,
                          wide + i * kPackCols);
            }
            pack_b({wide, 1, kPackCols}, cols, part, to);
        }
    }
}

// Packs columns [first, first + kPackCols) of the block.
void PackColumns(const Block& block, std::size_t first) {
    const std::size_t cols = std::min(kPackCols, block.cols - first);
    float* to = block.packed_b + first * block.depth;
    Depth depth{0, 0, block.depth};
    for (std::size_t s = 0; s < block.segment_count; ++s, depth.first += depth.count) {
        const Segment& segment = block.segments[s];
        const GemmOperand& b = segment.b;
        depth.count = segment.depth;
        if (b.type != WeightType::F32) {
            pack_widened(b, block.first_col + first, cols, segment.first_depth, depth, to);
            continue;
        }
        const float* data = static_cast<const float*>(b.data) + segment.first_depth * b.depth_stride;
        pack_b(Operand{data, b.outer_stride, b.depth_stride}.from(block.first_col + first), cols, depth, to);
    }
}

// Rows [first_row, first_row + rows) of C times columns [first_col, first_col + cols) of the block.
void MultiplyTile(const Block& block, std::size_t first_row, std::size_t rows, std::size_t first_col,
                  std::size_t cols) {
    float* packed_a = ThreadPool::thread_scratch().data();
    Depth depth{0, 0, block.depth};
    for (std::size_t s = 0; s < block.segment_count; ++s, depth.first += depth.count) {
        const Segment& segment = block.segments[s];
        const GemmOperand& a = segment.a;
        depth.count = segment.depth;
        const float* data = static_cast<const float*>(a.data) + segment.first_depth * a.depth_stride;
        pack_a(Operand{data, a.outer_stride, a.depth_stride}.from(first_row), rows, depth, segment.scale,
               packed_a);
    }
    multiply_packed(rows, cols, block.depth, packed_a, block.packed_b + first_col * block.depth,
                    block.c.row(first_row) + block.first_col + first_col, block.c.pitch, block.accumulate);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::kernels {
namespace {

HWY_EXPORT(TileHeights);
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
    const auto heights = HWY_DYNAMIC_DISPATCH(TileHeights)();
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

// Equal blocks of depth, a multiple of 4 long, whose count follows from the depths alone.
void run(ThreadPool& pool, const GemmTerm& term, const GemmTerm* rider, Matrix c, Write write) {
    const std::size_t extra = rider == nullptr ? 0 : rider->depth;
    const std::size_t blocks = std::max<std::size_t>(1, divide_up(term.depth, kDepthMax - extra));
    const std::size_t step = std::max<std::size_t>(4, round_up(divide_up(term.depth, blocks), 4));
    const std::size_t cols_step = round_up(divide_up(c.cols, divide_up(c.cols, kColsMax)), kPanelColsMax);
    Block block{{}, 1, c, 0, 0, 0, false, pool.shared_scratch().data()};
    for (block.first_col = 0; block.first_col < c.cols; block.first_col += cols_step) {
        block.cols = std::min(cols_step, c.cols - block.first_col);
        block.accumulate = write == Write::Accumulate;
        for (std::size_t first = 0; first == 0 || first < term.depth; first += step) {
            const std::size_t depth = std::min(step, term.depth - first);
            block.segments[0] = {term.a, term.b, term.scale, first, depth};
            block.segment_count = 1;
            if (first + depth == term.depth && rider != nullptr) {
                block.segments[1] = {rider->a, rider->b, rider->scale, 0, extra};
                block.segment_count = 2;
            }
            block.depth = depth + (block.segment_count == 2 ? extra : 0);
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
    if (c.rows == 0 || c.cols == 0) return;
    if (rider.depth <= kRiderDepthMax) return run(pool, term, &rider, c, write);
    run(pool, term, nullptr, c, write);
    run(pool, rider, nullptr, c, Write::Accumulate);
}

}  // namespace fedllm::kernels
#endif
