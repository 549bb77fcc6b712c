// Transformer: loss and gradients of a decoder on one micro-batch.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "client/engine/arena.hpp"
#include "client/engine/block.hpp"
#include "client/engine/engine.hpp"
#include "client/engine/network.hpp"
#include "client/engine/rotation.hpp"
#include "common/base/result.hpp"
#include "common/tensor/param_set.hpp"
#include "kernels/device/thread_pool.hpp"

namespace fedllm::client::engine {

// Lifecycle: move-only; all memory is taken in create(), none in a step. `pool` must outlive it.
// Concurrency: one call at a time.
// Limits: batches within Limits; InvalidData for a token, position or first_key out of range.
class Transformer {
public:
    static Result<Transformer> create(kernels::ThreadPool& pool, Network network, Limits limits);

    // What create() takes for buffers: to choose Limits that fit.
    static std::size_t buffer_bytes(const Network& network, Limits limits);

    // Adds gradient_scale * d(loss_sum)/d(params) to `gradients`. Both sets have the network's manifest.
    Result<StepResult> forward_backward(const BatchView& batch, const tensor::ParamSet& params,
                                        tensor::ParamSet& gradients, float gradient_scale);
    Result<StepResult> forward_loss(const BatchView& batch, const tensor::ParamSet& params);

    // Losses of the tokens that counted in the last call, in their order.
    std::span<const float> losses() const { return {head_.losses, counted_}; }

    // The logits of chosen tokens (indices into the batch) to out (places.size(), V).
    Result<void> logits(const BatchView& batch, const tensor::ParamSet& params,
                        std::span<const std::int32_t> places, kernels::Matrix out);

    const Network& network() const { return network_; }
    const Limits& limits() const { return limits_; }

private:
    // Kept from forward to backward, one set per layer that the backward pass visits; the layers below share
    // one. With Keep::LayerInputs all share one but for `input` and the few numbers of lora[kDown], without
    // which the widest product would be computed again. Parts that the family lacks have no room.
    struct LayerBuffers {
        float* input = nullptr;                    // (M,C) the residual stream before the layer
        float* normed = nullptr;                   // (M,C)
        float* stats = nullptr;                    // (2,M)
        float* qkv = nullptr;                      // (M, H*D + 2*KV*D), after RoPE unless heads are normed
        float* heads = nullptr;                    // (M, H*D + KV*D) q and k normed, after RoPE
        float* heads_rstd = nullptr;               // (H+KV,M)
        float* attended = nullptr;                 // (M,H*D)
        float* log_sum_exp = nullptr;              // (B,H,T)
        float* middle = nullptr;                   // (M,C) the residual stream after attention
        float* normed_mlp = nullptr;               // (M,C)
        float* stats_mlp = nullptr;                // (2,M)
        float* gate = nullptr;                     // (M,F); the backward pass leaves d(gate) here
        float* up = nullptr;                       // (M,F); likewise
        float* act = nullptr;                      // (M,F)
        std::array<float*, model::kParts> lora{};  // (M,R) x a^T
    };
    struct HeadBuffers {
        float* stream = nullptr;  // (M,C) output of the last layer
        float* input = nullptr;   // (M,C) its rows that count
        float* normed = nullptr;  // (M,C)
        float* stats = nullptr;   // (2,M)
        float* logits = nullptr;  // (chunk,V): tokens x vocabulary never exists at once
        float* losses = nullptr;  // (M)
    };
    struct BackwardBuffers {
        float* stream = nullptr;  // (M,C) gradient of the residual stream
        float* normed = nullptr;  // (M,C)
        float* wide = nullptr;    // (M,max(F,H*D))
        float* qkv = nullptr;     // (M, H*D + 2*KV*D)
        float* lora = nullptr;    // (M,R)
        float* dot = nullptr;     // (B,H,T)
    };
    struct Step;  // one call: batch, parameter and gradient pointers, number of tokens

    Transformer(kernels::ThreadPool* pool, Network network, Limits limits);
    void lay_out(Carver& carver);
    void lay_out_layer(Carver& carver, LayerBuffers& layer);
    void lay_out_kept(Carver& carver, LayerBuffers& layer);
    Result<void> check(const BatchView& batch, const tensor::ParamSet& params) const;
    LayerBuffers& buffers(std::size_t layer);

    void forward_stream(const Step& step);
    void embed(const Step& step, kernels::Matrix stream);
    void embed_backward(const Step& step);
    void look_through_window(const Step& step);
    const std::int32_t* first_key(const Step& step, std::size_t layer) const;
    QkvViews attention_inputs(std::size_t layer, std::size_t rows);
    void forward_attention(const Step& step, std::size_t layer);
    void forward_mlp(const Step& step, std::size_t layer, kernels::Matrix output);
    void forward_activation(const Step& step, std::size_t layer);
    void recompute(const Step& step, std::size_t layer);
    void gather_counted(const Step& step);
    void normalise_head(const Step& step);
    double head_losses(const Step& step, float gradient_scale);
    void backward_head(const Step& step);
    void backward_mlp(const Step& step, std::size_t layer, const Needs& needs);
    void backward_attention(const Step& step, std::size_t layer, const Needs& needs);
    void backward_part(const Step& step, std::size_t layer, Part part, kernels::ConstMatrix dy,
                       kernels::ConstMatrix x, kernels::Matrix dx, kernels::Write write);
    void project(const Step& step, std::size_t layer, Part part, kernels::ConstMatrix x, kernels::Matrix y);

    kernels::ThreadPool* pool_;
    Network network_;
    Limits limits_;
    std::size_t first_trained_;
    Rotation rotation_;
    std::vector<std::int32_t> places_, targets_;  // of the tokens that count
    std::vector<std::int32_t> window_first_key_;  // (B,T) for layers with a window; empty: none has one
    std::size_t counted_ = 0;
    Arena arena_;
    std::vector<LayerBuffers> layers_;
    HeadBuffers head_;
    BackwardBuffers backward_;
};

}  // namespace fedllm::client::engine
