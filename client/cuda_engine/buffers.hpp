// Buffers: activations, gradients of activations and scratch of one micro-batch, laid out once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "client/cuda_engine/fp8_weights.hpp"
#include "client/cuda_engine/groups.hpp"
#include "client/cuda_engine/memory.hpp"
#include "client/engine/engine.hpp"

namespace fedllm::client::cuda_engine {

// Kept from forward to backward, one set per layer that the backward pass visits; the layers below share one.
// With Keep::LayerInputs all share one but for `input`. Matrices that a group of projections reads or writes
// gradients of have room for S or dS behind their columns. Parts that the family lacks have no rows.
struct LayerBuffers {
    DeviceMatrix input;       // (M,C) the residual stream before the layer
    DeviceMatrix normed;      // (M,C | R)
    DeviceMatrix qkv;         // (M, H*D + 2*KV*D), after RoPE unless heads are normed
    DeviceMatrix heads;       // (M, H*D + KV*D) q and k normed, after RoPE
    DeviceMatrix attended;    // (M,H*D | R)
    DeviceMatrix middle;      // (M,C) the residual stream after attention
    DeviceMatrix normed_mlp;  // (M,C | R)
    DeviceMatrix gate_up;     // (M,2F | R), or (M,F | R); the backward pass leaves gradients here
    DeviceMatrix act;         // (M,F | R)
    float* stats = nullptr;   // (2,M)
    float* stats_mlp = nullptr;
    float* heads_rstd = nullptr;   // (M,H) and (M,KV)
    float* log_sum_exp = nullptr;  // (B,H,T)
};

// Of the tokens that count, in chunks: tokens x vocabulary never exists at once.
struct HeadBuffers {
    DeviceMatrix stream;  // (M,C) output of the last layer
    DeviceMatrix input;   // (M',C) its rows that count, M' rounded up to whole chunks
    DeviceMatrix normed;  // (M',C)
    DeviceMatrix logits;  // (chunk,V)
    float* stats = nullptr;
    float* losses = nullptr;     // (M')
    double* loss_sum = nullptr;  // of all micro-batches of a step
};

struct BackwardBuffers {
    DeviceMatrix stream;  // (M,C | R) gradient of the residual stream
    DeviceMatrix normed;  // (M,C)
    DeviceMatrix wide;    // (M,F) and (M,H*D) at different times
    DeviceMatrix qkv;     // (M, H*D + 2*KV*D | R)
    DeviceMatrix head;    // (M',C) d(normed) of the head
};

// What a micro-batch is, in the GPU's memory. Recorded graphs read it anew.
struct BatchArrays {
    std::int32_t* tokens = nullptr;  // (M), as the next three
    std::int32_t* positions = nullptr;
    std::int32_t* first_key = nullptr;
    std::int32_t* window_first_key = nullptr;  // for layers with a window
    std::int32_t* places = nullptr;            // (M') of the tokens that count; -1 from there on
    std::int32_t* targets = nullptr;           // (M') theirs; kIgnoreIndex from there on
    float* gradient_scale = nullptr;
    std::size_t bytes = 0;  // of all

    static BatchArrays lay_out(const engine::Network& network, const engine::Limits& limits, Carver& carver);
};

class Buffers {
public:
    Buffers() = default;
    Buffers(const engine::Network& network, const Groups& groups, const engine::Limits& limits);

    static std::size_t bytes(const engine::Network& network, const Groups& groups,
                             const engine::Limits& limits);

    // Everything zero: gaps between columns must be finite.
    void clear(const kernels::cuda::Stream& stream) const;
    LayerBuffers layer(std::size_t layer, std::size_t rows) const;
    const HeadBuffers& head() const { return head_; }
    HeadBuffers head(std::size_t rows) const;
    BackwardBuffers backward(std::size_t rows) const;
    const BatchArrays& batch() const { return batch_; }
    float* scratch() const { return scratch_; }    // of one operation
    const Fp8Matrix& fp8() const { return fp8_; }  // room for the left operand of a product

private:
    void lay_out(const engine::Network& network, const Groups& groups, const engine::Limits& limits,
                 Carver& carver);

    std::size_t first_trained_ = 0;
    std::vector<LayerBuffers> layers_;
    HeadBuffers head_;
    BackwardBuffers backward_;
    BatchArrays batch_;
    float* scratch_ = nullptr;
    Fp8Matrix fp8_;
    kernels::cuda::DeviceBuffer<unsigned char> memory_;
};

// Rows of logits that exist at once, and rows of the head's buffers: whole chunks of them.
std::size_t logit_rows(const engine::Limits& limits);
std::size_t head_rows(const engine::Limits& limits);

}  // namespace fedllm::client::cuda_engine
