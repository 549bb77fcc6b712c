// Frozen weights in FP8 (e4m3 with a scale per row), and what is multiplied with them. Tensor cores multiply
// FP8 only along memory, so that W is kept twice: as it is for Y = X W^T, and turned for dX = dY W.
#pragma once

#include <cstddef>
#include <cstdint>

#include "client/cuda_engine/memory.hpp"
#include "kernels/matmul/op_cuda.hpp"

namespace fedllm::client::cuda_engine {

struct Fp8Matrix {
    std::uint8_t* codes = nullptr;  // (rows, pitch), zeros from the matrix's last column on
    float* scales = nullptr;        // (rows)
    std::size_t rows = 0, pitch = 0;

    // The depth of a product is a multiple of 16.
    static std::size_t pitch_of(std::size_t cols) { return round_up(cols, 16); }
    static Fp8Matrix lay_out(std::size_t rows, std::size_t cols, Carver& carver);
    // As the left operand of a product, or with `turned` as the right one.
    kernels::cuda::GemmOperand operand(bool turned = false) const {
        return {codes, kernels::cuda::Element::E4M3, pitch, turned, scales};
    }
};

// W (N,K).
struct Fp8Weight {
    Fp8Matrix forward;   // (N,K)
    Fp8Matrix backward;  // (K,N)

    static Fp8Weight lay_out(std::size_t n, std::size_t k, Carver& carver);
    bool empty() const { return forward.codes == nullptr; }
    void fill(const kernels::cuda::Stream& stream, ConstDeviceMatrix from) const;
};

// Rows of activations or gradients, each with its scale, in the memory of `room`.
Fp8Matrix to_fp8(const kernels::cuda::Stream& stream, ConstDeviceMatrix from, const Fp8Matrix& room);

// Whether a GPU and its cuBLASLt multiply so: asked by a small product, for that depends on both.
bool multiplies_fp8(unsigned device);

}  // namespace fedllm::client::cuda_engine
