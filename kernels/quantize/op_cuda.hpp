// Stored weights into bf16 panels, and rows into FP8, on the GPU.
#pragma once

#include <cstdint>

#include "kernels/cuda/views.hpp"

namespace fedllm::kernels::cuda {

// to (N,K) = the values of `from` in bf16, rounded once from f32: for NF4, FP4 and Int8 what bitsandbytes'
// dequantisation to bf16 gives, bit for bit. `from` (codes and scales) lies in the GPU's memory; F32 and BF16
// are copied. With `turned`, from is (K,N). from.data is aligned to 16 bytes; fewer than 2^35 elements.
void dequantize(const Stream& stream, WeightView from, DeviceMatrix to, bool turned = false);

// Rows in FP8 (e4m3, largest value 448): scales[m] = absmax / 448 (1 for a row of zeros), code = nearest
// value to x / scale, ties to even. codes (M, pitch) with pitch a multiple of 16; columns from cols to pitch
// become 0.
void quantize_e4m3_rows(const Stream& stream, ConstDeviceMatrix from, std::uint8_t* codes, std::size_t pitch,
                        float* scales);
// The same of the transpose: codes (K, pitch) of from (N,K): what dX = dY W needs of W.
void quantize_e4m3_columns(const Stream& stream, ConstDeviceMatrix from, std::uint8_t* codes,
                           std::size_t pitch, float* scales);

}  // namespace fedllm::kernels::cuda
