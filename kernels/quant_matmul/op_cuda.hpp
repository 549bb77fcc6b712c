// y = x w^T with w in NF4, widened in registers on the way to the tensor cores: no panel in memory. For few
// and middling rows, where reading a panel of bf16 would cost more than the product.
#pragma once

#include <cstdint>

#include "kernels/cuda/views.hpp"
#include "kernels/quant_matmul/plan.hpp"

namespace fedllm::kernels::cuda {

// NF4 as the fused kernels read it: their own order of the codes, made once from bitsandbytes' order.
struct Nf4Tiles {
    const std::uint8_t* codes = nullptr;  // nf4_tile_bytes(), aligned to 16
    const float* scales = nullptr;        // (K / 64, N), aligned to 16: the transpose of bitsandbytes' order
    std::size_t n = 0, k = 0;
};
// NF4 in blocks of 64 that do not straddle rows, 16 rows at a time: K % 64 == 0 and N % 16 == 0.
bool nf4_matmul_supports(const WeightView& weight);
std::size_t nf4_tile_bytes(std::size_t n, std::size_t k);
void make_nf4_tiles(const Stream& stream, WeightView from, std::uint8_t* codes, float* scales);  // GPU memory

// y (M,N) = or += x (M,K) w^T. Products of bf16 values, f32 sums; w is rounded to bf16 as dequantize() does.
// The kernel for this GPU: wgmma on Hopper, mma.sync elsewhere.
void nf4_matmul(const Stream& stream, ConstDeviceMatrix x, const Nf4Tiles& w, DeviceMatrix y, Write write);
// By the way that an Nf4Plan chose, not Panel.
void nf4_matmul(const Stream& stream, Nf4Way way, ConstDeviceMatrix x, const Nf4Tiles& w, DeviceMatrix y,
                Write write);

}  // namespace fedllm::kernels::cuda
