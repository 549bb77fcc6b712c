#include "kernels/cuda/column_sums.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/matmul/op_cuda.hpp"

namespace fedllm::kernels::cuda {
namespace {

constexpr unsigned kWarps = 8;        // of a block, one behind the other along the rows
constexpr unsigned kRowsPerWarp = 4;  // whose loads are under way together
constexpr unsigned kCols = kWarp * kEight;

__global__ void __launch_bounds__(kWarps* kWarp) add_rows(const float* bias, MatrixView<BF16> y) {
    const auto cols = static_cast<unsigned>(y.cols);
    const unsigned chunks = (cols + kCols - 1) / kCols;
    const unsigned column = blockIdx.x % chunks * kCols + threadIdx.x % kWarp * kEight;
    if (column >= cols) return;
    const unsigned left = cols - column;
    const std::size_t first =
        (std::size_t{blockIdx.x / chunks} * kWarps + threadIdx.x / kWarp) * kRowsPerWarp;
    const EightFloats summand = load_eight(bias + column, left);
    Eight rows[kRowsPerWarp];
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kRowsPerWarp; ++i)
        if (first + i < y.rows) rows[i] = load_eight(row_of(y, first + i) + column);
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kRowsPerWarp; ++i) {
        if (first + i >= y.rows) continue;
        EightFloats sum = to_floats(rows[i]);
        for (unsigned e = 0; e < kEight; ++e) sum.at[e] += summand.at[e];
        store_eight(row_of(y, first + i) + column, to_eight(sum), left);
    }
}

struct BiasTerm {
    MatrixView<const BF16> dy;

    __device__ void operator()(std::size_t row, unsigned column, unsigned, EightFloats (&sums)[1]) const {
        const EightFloats g = to_floats(load_eight(row_of(dy, row) + column));
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kEight; ++i) sums[0].at[i] += g.at[i];
    }
};

}  // namespace

void add_bias(const Stream& stream, const float* bias, DeviceMatrix y) {
    launch(stream,
           {.grid = {blocks_for(y.cols, kCols) * blocks_for(y.rows, kWarps * kRowsPerWarp)},
            .threads = kWarps * kWarp},
           add_rows, bias, y);
}

void add_bias_backward(const Stream& stream, ConstDeviceMatrix dy, float* dbias, float* scratch) {
    column_sums<1>(stream, BiasTerm{dy}, dy.rows, dy.cols, scratch);
    add_partials(stream, scratch, Strips(dy.rows).count, dy.cols, dbias);
}

std::size_t bias_scratch(std::size_t rows, std::size_t cols) { return column_sums_scratch(rows, cols, 1); }

}  // namespace fedllm::kernels::cuda
