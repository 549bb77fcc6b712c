// The fused kernels by name: for op.cu, which chooses, and for tests and measurements.
#pragma once

#include <array>

#include "kernels/quant_matmul/op_cuda.hpp"
#include "kernels/quant_matmul/plan.hpp"

namespace fedllm::kernels::cuda::nf4 {

// Each launches the kernel whose tile has this many tokens: kMmaTiles, kWgmmaTiles.
void launch_mma(const Stream& stream, unsigned tile_tokens, ConstDeviceMatrix x, const Nf4Tiles& w,
                DeviceMatrix y, Write write);
void launch_wgmma(const Stream& stream, unsigned tile_tokens, ConstDeviceMatrix x, const Nf4Tiles& w,
                  DeviceMatrix y, Write write);

}  // namespace fedllm::kernels::cuda::nf4
