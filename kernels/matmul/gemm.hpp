// The blocked product behind every linear layer: C (+)= scale * A B, with A and B given by strides.
#pragma once

#include <cstddef>

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {

// One of the two strides is 1. `outer` steps along the rows of A or the columns of B, `depth` along the sum.
// A is F32; B may be any stored type: it is widened once per block, whatever the number of threads.
struct GemmOperand {
    const void* data = nullptr;
    WeightType type = WeightType::F32;
    std::size_t outer_stride = 0;
    std::size_t depth_stride = 0;
    const float* scales = nullptr;  // of quantised types, as in WeightView
    std::size_t block = 64;
};

// scale * A B; scale multiplies A while it is packed, before it is rounded where the operands are bf16.
struct GemmTerm {
    GemmOperand a;
    GemmOperand b;
    std::size_t depth = 0;
    float scale = 1.0f;
    Operands operands = Operands::F32;
};

// c (rows of A, cols of B) = or += the product.
// The sum over depth is cut into blocks by its length alone, and each block is one chain of fused
// multiply-adds: an element's bits do not depend on the number of threads, nor on the other rows and columns
// of the product. With bf16 operands and AVX-512 BF16 it is a chain of dot products of two steps.
void gemm(ThreadPool& pool, const GemmTerm& term, Matrix c, Write write);

// The sum of two products, the second one (a low rank) riding on the last block of the first: c is written
// once. The rider's operands are f32.
void gemm(ThreadPool& pool, const GemmTerm& term, const GemmTerm& rider, Matrix c, Write write);

inline GemmOperand rows_of(ConstMatrix m) {
    return {m.data, WeightType::F32, m.pitch, 1};
}  // depth = columns
inline GemmOperand columns_of(ConstMatrix m) {
    return {m.data, WeightType::F32, 1, m.pitch};
}  // depth = rows
inline GemmOperand rows_of(WeightView w) { return {w.data, w.type, w.cols, 1, w.scales, w.block}; }
inline GemmOperand columns_of(WeightView w) { return {w.data, w.type, 1, w.cols, w.scales, w.block}; }

}  // namespace fedllm::kernels
