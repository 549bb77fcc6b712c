// Weights to and from the 4-bit and 8-bit types of bitsandbytes, byte for byte and bit for bit what its
// reference arithmetic gives (bitsandbytes 0.50, functional.quantize_4bit, int8_vectorwise_quant and
// quantize_blockwise; QLoRA, Dettmers et al. 2023, section 3; LLM.int8, Dettmers et al. 2022, section 3.1).
// A value that is not finite makes its scale not finite: the caller looks at the scales.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {

constexpr std::size_t kFourBitBlockMin = 32;
constexpr std::size_t kFourBitBlockMax = 4096;
constexpr std::size_t kNestedBlock = 256;  // scales under one scale of double quantisation

constexpr bool is_four_bit_block(std::size_t block) {
    return block >= kFourBitBlockMin && block <= kFourBitBlockMax && (block & (block - 1)) == 0;
}
constexpr std::size_t blocks_of(std::size_t elements, std::size_t block) {
    return (elements + block - 1) / block;
}
constexpr std::size_t four_bit_bytes(std::size_t elements) { return (elements + 1) / 2; }

// NF4 or FP4: per block of the flattened matrix scale = max |v| and code = nearest value to v * (1 / scale).
// A last, shorter block divides instead, and its scale is at least 1e-38: so does bitsandbytes.
void quantize_four_bit(ThreadPool& pool, WeightView from,  // (N,K), F32 or BF16
                       WeightType to, std::size_t block,
                       std::span<std::uint8_t> codes,  // four_bit_bytes(N*K)
                       std::span<float> scales);       // blocks_of(N*K, block)

// LLM.int8: per row absmax = max |v| and code = v * (1 / absmax * 127), rounded to nearest even. bitsandbytes
// keeps absmax ("SCB"); a WeightView of type Int8 wants absmax * kInt8Step.
constexpr float kInt8Step = 1.0f / 127.0f;
void quantize_int8(ThreadPool& pool, WeightView from,  // (N,K), F32 or BF16
                   std::span<std::int8_t> codes,       // N*K
                   std::span<float> absmax);           // N

// The values of a matrix of any type as f32.
void dequantize(ThreadPool& pool, WeightView from,  // (N,K)
                std::span<float> values);           // N*K

// bitsandbytes' int8_vectorwise_dequant: (code * absmax) * kInt8Step, rounded twice.
void dequantize_int8(std::span<const std::int8_t> codes,  // N*K
                     std::span<const float> absmax,       // N
                     std::span<float> values);            // N*K

// Double quantisation. Scale i is map[code i] * nested[i / 256] + offset.
void decode_scales(std::span<const std::uint8_t> codes, std::span<const float> nested,
                   std::span<const float, 256> map, float offset, std::span<float> scales);

// offset is their mean. bitsandbytes sums it in f32 in an order that depends on the machine; this is the
// exact sum rounded once, so the two may differ in the last bits.
float mean_scale(std::span<const float> scales);
// The nearest values of the map. `nested` has blocks_of(scales, 256) elements.
void encode_scales(std::span<const float> scales, float offset, std::span<const float, 256> map,
                   std::span<std::uint8_t> codes, std::span<float> nested);

// The signed dynamic 8-bit type (Dettmers, 8-bit approximations, 2016), ascending: seven decades of 1 to 64
// values each and sign, 0 and 1. With fused multiply-adds, as PyTorch computes it on a current CPU; others
// differ in last bits, which is why files carry the map they were made with.
std::array<float, 256> dynamic_map();

}  // namespace fedllm::kernels
