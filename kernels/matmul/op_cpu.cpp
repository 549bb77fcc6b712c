#include "kernels/matmul/op.hpp"

#include <algorithm>

#include "common/base/result.hpp"
#include "kernels/matmul/gemm.hpp"

namespace fedllm::kernels {

void matmul_forward(ThreadPool& pool, ConstMatrix x, WeightView w, Matrix y, Write write, Operands operands) {
    FEDLLM_CHECK(x.cols == w.cols && y.rows == x.rows && y.cols == w.rows, "matmul_forward: shapes differ");
    gemm(pool, {rows_of(x), rows_of(w), x.cols, 1.0f, operands}, y, write);
}

void matmul_backward_input(ThreadPool& pool, ConstMatrix dy, WeightView w, Matrix dx, Write write,
                           Operands operands) {
    FEDLLM_CHECK(dy.cols == w.rows && dx.rows == dy.rows && dx.cols == w.cols,
                 "matmul_backward_input: shapes differ");
    gemm(pool, {rows_of(dy), columns_of(w), dy.cols, 1.0f, operands}, dx, write);
}

void matmul_backward_weight(ThreadPool& pool, ConstMatrix dy, ConstMatrix x, Matrix dw, Write write) {
    FEDLLM_CHECK(dy.rows == x.rows && dw.rows == dy.cols && dw.cols == x.cols,
                 "matmul_backward_weight: shapes differ");
    gemm(pool, {columns_of(dy), columns_of(x), dy.rows}, dw, write);
}

void add_bias(ThreadPool& pool, const float* bias, Matrix y) {
    pool.parallel_for(y.rows, [&](std::size_t m) {
        float* row = y.row(m);
        for (std::size_t n = 0; n < y.cols; ++n) row[n] += bias[n];
    });
}

void add_bias_backward(ThreadPool& pool, ConstMatrix dy, float* dbias) {
    constexpr std::size_t kCols = 64;  // each block of columns adds its rows in order
    pool.parallel_for((dy.cols + kCols - 1) / kCols, [&](std::size_t block) {
        const std::size_t first = block * kCols;
        const std::size_t count = std::min(kCols, dy.cols - first);
        float sums[kCols] = {};
        for (std::size_t m = 0; m < dy.rows; ++m) {
            const float* row = dy.row(m) + first;
            for (std::size_t n = 0; n < count; ++n) sums[n] += row[n];
        }
        for (std::size_t n = 0; n < count; ++n) dbias[first + n] += sums[n];
    });
}

}  // namespace fedllm::kernels
