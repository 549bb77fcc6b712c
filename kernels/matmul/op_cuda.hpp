// Dense products on the GPU: cuBLASLt, with the algorithm that was fastest when a shape was first seen.
// fedllm::kernels_cuda implements this by cuBLASLt, fedllm::kernels_emulation by loops.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/cuda/views.hpp"

namespace fedllm::kernels::cuda {

enum class Element : std::uint8_t { BF16, F32, E4M3 };

// A matrix in memory, row-major; with `turned` its transpose is meant.
struct GemmOperand {
    const void* data = nullptr;
    Element type = Element::BF16;
    std::size_t pitch = 0;  // elements
    bool turned = false;
    const float* scales = nullptr;  // of E4M3: one per row of A or column of B, in the GPU's memory
};

// d (M,N) = alpha a (M,K) b (K,N) + beta c. a and b are of one type: BF16, E4M3 (then a is not turned, b is:
// K runs along memory in both; K is a multiple of 16, a row of d of 16 bytes) or F32 (then d is too). d and c
// are BF16 or F32, of one type; c may be d.
struct Gemm {
    std::size_t m = 0, n = 0, k = 0;
    GemmOperand a, b;
    const void* c = nullptr;
    std::size_t c_pitch = 0;
    void* d = nullptr;
    std::size_t d_pitch = 0;
    Element d_type = Element::BF16;
    float alpha = 1.0f;
    float beta = 0.0f;
};

// Lifecycle: one per stream. Concurrency: one call at a time. Nothing is timed or allocated while the stream
// records a graph: a shape must be met once before, by prepare() or gemm().
class Blas {
public:
    Blas();
    ~Blas();
    Blas(Blas&&) noexcept;
    Blas& operator=(Blas&&) noexcept;

    void gemm(const Stream& stream, const Gemm& gemm);
    // Times the candidates on the operands given and keeps the best for this shape; d is overwritten.
    void prepare(const Stream& stream, const Gemm& gemm);

private:
    struct Implementation;
    std::unique_ptr<Implementation> implementation_;
};

inline GemmOperand operand(ConstDeviceMatrix m, bool turned = false) {
    return {m.data, Element::BF16, m.pitch, turned, nullptr};
}

// y[m,:] += bias; dbias (N) += sum over m of dy[m,:], in fixed order; `scratch` has bias_scratch() floats.
void add_bias(const Stream& stream, const float* bias, DeviceMatrix y);
void add_bias_backward(const Stream& stream, ConstDeviceMatrix dy, float* dbias, float* scratch);
std::size_t bias_scratch(std::size_t rows, std::size_t cols);

}  // namespace fedllm::kernels::cuda
