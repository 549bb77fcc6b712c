// Non-owning views of row-major matrices: what host code hands to an operation.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/tensor/dtype.hpp"

namespace fedllm::kernels {

using tensor::DType;

// rows x cols floats; consecutive rows are `pitch` elements apart (pitch >= cols), so a view may be a slice.
template <class T>
struct MatrixView {
    T* data = nullptr;
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::size_t pitch = 0;

    MatrixView() = default;
    MatrixView(T* d, std::size_t r, std::size_t c) : data(d), rows(r), cols(c), pitch(c) {}
    MatrixView(T* d, std::size_t r, std::size_t c, std::size_t p) : data(d), rows(r), cols(c), pitch(p) {}
    operator MatrixView<const T>() const { return {data, rows, cols, pitch}; }

    T* row(std::size_t index) const { return data + index * pitch; }
    MatrixView columns(std::size_t first, std::size_t count) const {
        return {data + first, rows, count, pitch};
    }
    MatrixView slice(std::size_t first, std::size_t count) const {
        return {data + first * pitch, count, cols, pitch};
    }
};
using Matrix = MatrixView<float>;
using ConstMatrix = MatrixView<const float>;

// A weight as it is stored: f32 or bf16 (other DTypes are refused by a check), widened to f32 while it is
// read. A linear layer's weight is (N out, K in), an embedding table (V, C).
struct WeightView {
    const void* data = nullptr;
    DType dtype = DType::F32;
    std::size_t rows = 0;
    std::size_t cols = 0;
};

enum class Write { Overwrite, Accumulate };

}  // namespace fedllm::kernels
