#include "client/cuda_engine/computation.hpp"

#include <cmath>
#include <vector>

#include "client/engine/frequencies.hpp"
#include "kernels/attention/op_cuda.hpp"
#include "kernels/cross_entropy/op_cuda.hpp"
#include "kernels/embedding/op_cuda.hpp"
#include "kernels/gelu/op_cuda.hpp"
#include "kernels/layer_norm/op_cuda.hpp"
#include "kernels/rms_norm/op_cuda.hpp"
#include "kernels/rope/op_cuda.hpp"
#include "kernels/swiglu/op_cuda.hpp"

namespace fedllm::client::cuda_engine {

using kernels::Write;
using namespace model;  // the parts' names

Computation::Computation(const kernels::cuda::Stream& stream, const engine::Network& network,
                         const engine::Limits& limits, const Groups& groups, Panels& panels, Buffers& buffers,
                         TrainedValues trained, Transfer& transfer)
    : stream_(&stream),
      network_(&network),
      limits_(limits),
      groups_(&groups),
      panels_(&panels),
      buffers_(&buffers),
      trained_(trained),
      products_(stream, network, panels, trained, buffers.scratch(), buffers.fp8()) {
    const ModelConfig& config = network.config();
    if (config.family->positions != Positions::Rotary) return;
    const std::size_t elements = limits.tokens_per_row * config.head_size / 2;
    std::vector<float> cosine(elements), sine(elements);
    kernels::rope_table(limits.tokens_per_row, engine::rope_frequencies(config), cosine.data(), sine.data());
    cosine_ = kernels::cuda::DeviceBuffer<float>(elements);
    sine_ = kernels::cuda::DeviceBuffer<float>(elements);
    transfer.to_device(cosine_.data(), cosine.data(), cosine_.bytes());
    transfer.to_device(sine_.data(), sine.data(), sine_.bytes());
}

void Computation::forward_loss(const MicroBatch& batch) {
    panels_->begin(Panels::kEvaluation);
    forward_stream(batch);
    gather_head_input(batch, batch.chunks * logit_rows(limits_));
    head_losses(batch, Gradients::No);
}

void Computation::forward_head_input(const MicroBatch& batch) {
    panels_->begin(Panels::kEvaluation);
    forward_stream(batch);
    gather_head_input(batch, batch.chunks * logit_rows(limits_));
}

void Computation::forward_stream(const MicroBatch& batch) {
    const std::size_t layers = network_->config().layers;
    const DeviceMatrix last = buffers_->head(batch.tokens()).stream;
    embed(layers == 0 ? last : buffers_->layer(0, batch.tokens()).input);
    for (std::size_t layer = 0; layer < layers; ++layer) {
        forward_attention(batch, layer);
        forward_mlp(batch, layer,
                    layer + 1 == layers ? last : buffers_->layer(layer + 1, batch.tokens()).input);
    }
}

void Computation::embed(DeviceMatrix stream) {
    kernels::cuda::embedding_forward(*stream_, buffers_->batch().tokens,
                                     network_->table(kEmbedding, trained_.params), stream, Write::Overwrite);
    if (!network_->has(kPositions)) return;
    kernels::cuda::embedding_forward(*stream_, buffers_->batch().positions,
                                     network_->table(kPositions, trained_.params), stream, Write::Accumulate);
}

const std::int32_t* Computation::first_key(std::size_t layer) const {
    const BatchArrays& arrays = buffers_->batch();
    return network_->config().window_of(layer) == 0 ? arrays.first_key : arrays.window_first_key;
}

kernels::AttentionShape Computation::attention_shape(const MicroBatch& batch) const {
    const ModelConfig& config = network_->config();
    const float scale = 1.0F / std::sqrt(static_cast<float>(config.head_size));
    return {batch.rows, batch.tokens_per_row, config.heads, config.kv_heads, config.head_size, scale};
}

// q and k, side by side, where attention reads them: where their heads' norms put them, if the family has
// those.
DeviceMatrix Computation::query_key(const LayerBuffers& b) const {
    const ModelConfig& config = network_->config();
    const DeviceMatrix& from = network_->has(kQueryNorm) ? b.heads : b.qkv;
    return from.columns(0, config.query_width() + config.key_width());
}

void Computation::turn(DeviceMatrix query_key, kernels::Turn direction) {
    const ModelConfig& config = network_->config();
    if (cosine_.size() == 0) return;
    kernels::cuda::rope(*stream_, query_key, config.heads + config.kv_heads, config.head_size,
                        buffers_->batch().positions, cosine_.data(), sine_.data(), direction);
}

engine::Norm Computation::norm(std::size_t layer, Part part) const {
    return network_->norm(layer, part, trained_.params, trained_.gradients);
}

void Computation::norm_forward(const engine::Norm& norm, DeviceMatrix x, DeviceMatrix y, float* stats) {
    if (norm.kind == NormKind::Rms) {
        kernels::cuda::rms_norm_forward(*stream_, {norm.weight, norm.epsilon, 1}, x, {}, y, stats);
    } else {
        kernels::cuda::layer_norm_forward(*stream_, x, norm.weight, norm.bias, norm.epsilon, y, stats,
                                          stats + x.rows);
    }
}

void Computation::norm_heads(std::size_t layer, const LayerBuffers& b) {
    if (!network_->has(kQueryNorm)) return;
    const ModelConfig& config = network_->config();
    const std::size_t q = config.query_width(), k = config.key_width();
    const engine::Norm query = norm(layer, kQueryNorm), key = norm(layer, kKeyNorm);
    kernels::cuda::rms_norm_forward(*stream_, {query.weight, query.epsilon, config.heads},
                                    b.qkv.columns(0, q), {}, b.heads.columns(0, q), b.heads_rstd);
    kernels::cuda::rms_norm_forward(*stream_, {key.weight, key.epsilon, config.kv_heads}, b.qkv.columns(q, k),
                                    {}, b.heads.columns(q, k), b.heads_rstd + config.heads * b.qkv.rows);
}

// middle = input + o(attention(rope(q), rope(k), v)).
void Computation::forward_attention(const MicroBatch& batch, std::size_t layer) {
    const ModelConfig& config = network_->config();
    const LayerBuffers b = buffers_->layer(layer, batch.tokens());
    const std::size_t q = config.query_width(), k = config.key_width();
    norm_forward(norm(layer, kInputNorm), b.input, b.normed, b.stats);
    products_.forward(groups_->at(layer, kQkvGroup), b.normed, b.qkv);
    norm_heads(layer, b);
    const DeviceMatrix both = query_key(b);
    turn(both, kernels::Turn::Forward);
    kernels::cuda::attention_forward(*stream_, attention_shape(batch), first_key(layer), both.columns(0, q),
                                     both.columns(q, k), b.qkv.columns(q + k, k), b.attended, b.log_sum_exp);
    products_.forward(groups_->at(layer, kOGroup), b.attended, b.middle, b.input);
}

// act = silu(gate) * up or gelu(up).
void Computation::forward_activation(const MicroBatch& batch, std::size_t layer) {
    const LayerBuffers b = buffers_->layer(layer, batch.tokens());
    const std::size_t f = network_->config().intermediate;
    norm_forward(norm(layer, kMlpNorm), b.middle, b.normed_mlp, b.stats_mlp);
    products_.forward(groups_->at(layer, kGateUpGroup), b.normed_mlp, b.gate_up);
    if (network_->has(kGate)) {
        kernels::cuda::swiglu_forward(*stream_, b.gate_up.columns(0, f), b.gate_up.columns(f, f), b.act);
    } else {
        kernels::cuda::gelu_forward(*stream_, b.gate_up.columns(0, f), b.act);
    }
}

// output = middle + down(act).
void Computation::forward_mlp(const MicroBatch& batch, std::size_t layer, DeviceMatrix output) {
    forward_activation(batch, layer);
    const LayerBuffers b = buffers_->layer(layer, batch.tokens());
    products_.forward(groups_->at(layer, kDownGroup), b.act, output, b.middle);
}

// Only tokens with a target reach the head: the rows of normed that are needed, and zero rows up to a whole
// chunk.
void Computation::gather_head_input(const MicroBatch& batch, std::size_t rows) {
    const HeadBuffers head = buffers_->head(batch.tokens());
    const DeviceMatrix input = head.input.slice(0, rows);
    kernels::cuda::gather_rows(*stream_, head.stream, buffers_->batch().places, input);
    norm_forward(network_->final_norm(trained_.params, nullptr), input, head.normed.slice(0, rows),
                 head.stats);
}

// Chunk by chunk: logits, losses and, with gradients, d(normed) and the head's own gradient.
void Computation::head_losses(const MicroBatch& batch, Gradients gradients) {
    const HeadBuffers head = buffers_->head(batch.tokens());
    const BatchArrays& arrays = buffers_->batch();
    const std::size_t rows = logit_rows(limits_);
    const bool wanted = gradients == Gradients::Wanted;
    for (std::size_t first = 0; first < batch.chunks * rows; first += rows) {
        const DeviceMatrix normed = head.normed.slice(first, rows);
        products_.head_forward(normed, head.logits);
        kernels::cuda::cross_entropy(*stream_, head.logits, arrays.targets + first, head.losses + first,
                                     wanted ? arrays.gradient_scale : nullptr);
        if (!wanted) continue;
        products_.head_backward(head.logits, normed,
                                buffers_->backward(batch.tokens()).head.slice(first, rows));
    }
    kernels::cuda::add_losses(*stream_, head.losses, batch.chunks * rows, head.loss_sum);
}

}  // namespace fedllm::client::cuda_engine
