// Non-owning views of row-major matrices: what host code hands to an operation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace fedllm::kernels {

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
    // A view of values that may be written is one of values that may be read.
    template <class U>
    requires std::is_same_v<const U, T> MatrixView(MatrixView<U> other)
        : data(other.data), rows(other.rows), cols(other.cols), pitch(other.pitch) {}

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

// How a weight is stored; whatever it is, it is widened to f32 while it is read. The quantised ones are
// frozen: a product with them has a forward pass and a gradient of its input, none of the weight.
enum class WeightType : std::uint8_t {
    F32,
    BF16,
    Int8,  // LLM.int8: value = code * scales[row]
    NF4,   // QLoRA: value = code book[nibble] * scales[flat index / block]; the even element is the high
           // nibble
    FP4,   // likewise with bitsandbytes' FP4 code book
};

// A linear layer's weight is (N out, K in), an embedding table (V, C), row-major. Blocks of NF4 and FP4 run
// over the flattened matrix, as bitsandbytes stores them: a block may straddle two rows.
struct WeightView {
    const void* data = nullptr;
    WeightType type = WeightType::F32;
    std::size_t rows = 0;
    std::size_t cols = 0;
    const float* scales = nullptr;  // Int8: one per row; NF4, FP4: one per block; else unused
    std::size_t block = 64;         // elements per scale of NF4 and FP4, a power of two from 32 to 4096
};

// Bytes of a weight's codes and scales.
inline std::size_t bytes_of(WeightType type, std::size_t rows, std::size_t cols, std::size_t block = 64) {
    const std::size_t elements = rows * cols;
    switch (type) {
        case WeightType::F32: return elements * sizeof(float);
        case WeightType::BF16: return elements * 2;
        case WeightType::Int8: return elements + rows * sizeof(float);
        case WeightType::NF4:
        case WeightType::FP4: return (elements + 1) / 2 + (elements + block - 1) / block * sizeof(float);
    }
    return 0;
}

enum class Write { Overwrite, Accumulate };

// What a product's operands are rounded to, whatever they are stored in; sums are f32. Bf16 runs at the rate
// of vdpbf16ps where the processor has AVX-512 BF16, which takes subnormals for zero; elsewhere at the rate
// of f32. E4m3: FP8 with a scale per row, on GPUs that multiply so (Hopper and later); everywhere else as
// Bf16.
enum class Operands { F32, Bf16, E4m3 };

}  // namespace fedllm::kernels
