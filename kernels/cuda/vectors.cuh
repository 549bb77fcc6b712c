// Kernels that treat every eight columns (16 bytes) of a matrix alike: a thread has one eight, and the eights
// of all rows lie behind one another, so that narrow rows fill their blocks too. grid.x alone, which takes
// any number of rows.
//
//     __global__ void negate(MatrixView<BF16> x) {
//         each_eight(x.rows, x.cols, [&](std::size_t row, std::size_t column, unsigned left) {...});
//     }
//     launch(stream, for_eights(x.rows, x.cols), negate, x);
#pragma once

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/views.hpp"

namespace fedllm::kernels::cuda {

constexpr unsigned kEachThreads = 256;

__host__ __device__ __forceinline__ std::size_t eights_of(std::size_t cols) {
    return (cols + kEight - 1) / kEight;
}

inline Launch for_items(std::size_t items) {
    return {.grid = {blocks_for(items, kEachThreads)}, .threads = kEachThreads};
}
inline Launch for_eights(std::size_t rows, std::size_t cols) { return for_items(rows * eights_of(cols)); }

// This thread's, of a launch for_items().
__device__ __forceinline__ std::size_t item_of_thread() {
    return std::size_t{blockIdx.x} * kEachThreads + threadIdx.x;
}

// Views' own functions are the host's.
template <class T>
__device__ __forceinline__ T* at(const MatrixView<T>& x, std::size_t row, std::size_t column) {
    return x.data + row * x.pitch + column;
}

// body(row, column, left): left is 8, less at the row's end.
template <class Body>
__device__ __forceinline__ void each_eight(std::size_t rows, std::size_t cols, Body&& body) {
    const std::size_t item = item_of_thread(), eights = eights_of(cols);
    if (item >= rows * eights) return;
    const std::size_t column = item % eights * kEight, left = cols - column;
    body(item / eights, column, left < kEight ? static_cast<unsigned>(left) : kEight);
}

}  // namespace fedllm::kernels::cuda
