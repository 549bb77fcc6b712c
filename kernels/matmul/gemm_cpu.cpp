#include "kernels/matmul/gemm.hpp"

#include <algorithm>
#include <cstdint>

#include "common/base/result.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul/gemm_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/gemm_tile-inl.hpp"

// Blocking (Goto & van de Geijn 2008). A block of B, kDepthMax x kColsMax, is packed once and shared by all
// threads (1.5 MiB, second-level cache); each thread packs kTileRows rows of A (under 90 KiB) and multiplies.
#ifndef FEDLLM_KERNELS_MATMUL_GEMM_BLOCKS
#define FEDLLM_KERNELS_MATMUL_GEMM_BLOCKS
namespace fedllm::kernels {
namespace {

constexpr std::size_t kDepthMax = 384;
constexpr std::size_t kColsMax = 1024;
constexpr std::size_t kPanelColsMax = 32;  // of any instruction set; blocks begin at multiples of it
constexpr std::size_t kColsPerItem = 4 * kPanelColsMax;  // unit of work where there are few rows
static_assert(kDepthMax * (kColsMax + kPanelColsMax) <= ThreadPool::kSharedScratchFloats);

// The part of the product that is in work: columns and depth of the packed block of B.
struct Block {
    GemmOperand a;
    GemmOperand b;
    Matrix c;
    float scale;
    std::size_t first_col, cols;
    std::size_t first_depth, depth;
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

constexpr std::size_t kTileRows = 4 * kStripRows;
static_assert(kPanelCols <= kPanelColsMax && kPanelColsMax % kPanelCols == 0);
static_assert(kTileRows * kDepthMax + kPackSlack + kPanelColsMax * kDepthMax <=
              ThreadPool::kThreadScratchFloats);

std::size_t TileRows() { return kTileRows; }

// Packs columns [first, first + kPanelColsMax) of the block; bf16 is widened on the way.
void PackColumns(const Block& block, std::size_t first) {
    const std::size_t cols = std::min(kPanelColsMax, block.cols - first);
    const GemmOperand& b = block.b;
    const std::size_t start = (block.first_col + first) * b.outer_stride + block.first_depth * b.depth_stride;
    float* to = block.packed_b + first * block.depth;
    if (b.type == WeightType::F32) {
        const float* data = static_cast<const float*>(b.data) + start;
        return pack_b({data, b.outer_stride, b.depth_stride}, cols, block.depth, to);
    }
    const std::uint16_t* data = static_cast<const std::uint16_t*>(b.data) + start;
    float* wide = ThreadPool::thread_scratch().data();
    if (b.depth_stride == 1) {
        for (std::size_t n = 0; n < cols; ++n) {
            widen_bf16(data + n * b.outer_stride, wide + n * block.depth, block.depth);
        }
        return pack_b({wide, block.depth, 1}, cols, block.depth, to);
    }
    for (std::size_t k = 0; k < block.depth; ++k)
        widen_bf16(data + k * b.depth_stride, wide + k * cols, cols);
    pack_b({wide, 1, cols}, cols, block.depth, to);
}

// Rows [first_row, first_row + rows) of C times columns [first_col, first_col + cols) of the block.
void MultiplyTile(const Block& block, std::size_t first_row, std::size_t rows, std::size_t first_col,
                  std::size_t cols) {
    const GemmOperand& a = block.a;
    const float* from =
        static_cast<const float*>(a.data) + first_row * a.outer_stride + block.first_depth * a.depth_stride;
    float* packed_a = ThreadPool::thread_scratch().data();
    pack_a({from, a.outer_stride, a.depth_stride}, rows, block.depth, block.scale, packed_a);
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

HWY_EXPORT(TileRows);
HWY_EXPORT(PackColumns);
HWY_EXPORT(MultiplyTile);

constexpr std::size_t divide_up(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

void multiply_block(ThreadPool& pool, const Block& block) {
    pool.parallel_for(divide_up(block.cols, kPanelColsMax), [&](std::size_t i) {
        HWY_DYNAMIC_DISPATCH(PackColumns)(block, i * kPanelColsMax);
    });
    // Many rows: a tile of rows meets all columns, so A is packed once. Few rows: the columns are the work.
    const std::size_t rows_step = HWY_DYNAMIC_DISPATCH(TileRows)();
    const std::size_t row_tiles = divide_up(block.c.rows, rows_step);
    const std::size_t cols_step = row_tiles >= 8 ? kColsMax : kColsPerItem;
    const std::size_t col_tiles = divide_up(block.cols, cols_step);
    pool.parallel_for(row_tiles * col_tiles, [&](std::size_t i) {
        const std::size_t row = i / col_tiles * rows_step;
        const std::size_t col = i % col_tiles * cols_step;
        HWY_DYNAMIC_DISPATCH(MultiplyTile)
        (block, row, std::min(rows_step, block.c.rows - row), col, std::min(cols_step, block.cols - col));
    });
}

void check_operand(const GemmOperand& operand, bool may_be_bf16) {
    FEDLLM_CHECK(operand.type == WeightType::F32 || (may_be_bf16 && operand.type == WeightType::BF16),
                 "matmul takes F32 and BF16 weights");
    FEDLLM_CHECK(operand.outer_stride == 1 || operand.depth_stride == 1, "one stride of an operand is 1");
}

}  // namespace

void gemm(ThreadPool& pool, GemmOperand a, GemmOperand b, std::size_t depth, Matrix c, Write write,
          float scale) {
    check_operand(a, /*may_be_bf16=*/false);
    check_operand(b, /*may_be_bf16=*/true);
    if (c.rows == 0 || c.cols == 0) return;
    if (depth == 0 && write == Write::Accumulate) return;
    // Equal blocks, a multiple of 4 long, whose count follows from the depth alone.
    const std::size_t blocks = std::max<std::size_t>(1, divide_up(depth, kDepthMax));
    const std::size_t step = std::max<std::size_t>(4, divide_up(divide_up(depth, blocks), 4) * 4);
    Block block{a, b, c, scale, 0, 0, 0, 0, false, pool.shared_scratch().data()};
    for (block.first_col = 0; block.first_col < c.cols; block.first_col += kColsMax) {
        block.cols = std::min(kColsMax, c.cols - block.first_col);
        block.accumulate = write == Write::Accumulate;
        for (block.first_depth = 0; block.first_depth == 0 || block.first_depth < depth;
             block.first_depth += step) {
            block.depth = std::min(step, depth - block.first_depth);
            multiply_block(pool, block);
            block.accumulate = true;
        }
    }
}

}  // namespace fedllm::kernels
#endif
