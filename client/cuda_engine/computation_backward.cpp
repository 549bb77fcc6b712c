#include "client/cuda_engine/computation.hpp"
#include "kernels/attention/op_cuda.hpp"
#include "kernels/embedding/op_cuda.hpp"
#include "kernels/gelu/op_cuda.hpp"
#include "kernels/layer_norm/op_cuda.hpp"
#include "kernels/rms_norm/op_cuda.hpp"
#include "kernels/swiglu/op_cuda.hpp"

namespace fedllm::client::cuda_engine {

using kernels::Write;
using namespace model;  // the parts' names

void Computation::forward_backward(const MicroBatch& batch) {
    panels_->begin(Panels::kTraining);
    forward_stream(batch);
    gather_head_input(batch, batch.chunks * logit_rows(limits_));
    head_losses(batch, Gradients::Wanted);
    backward_head(batch);
    const std::size_t lowest = network_->binding().first_trained_layer();
    for (std::size_t layer = network_->config().layers; layer-- > lowest;) {
        const engine::Needs need = network_->needs(layer);
        recompute(batch, layer);
        backward_mlp(batch, layer, need);
        if (need.middle) backward_attention(batch, layer, need);
    }
    embed_backward(batch);
}

// The activations of a layer of which only the input was kept. The last layer's are still there.
void Computation::recompute(const MicroBatch& batch, std::size_t layer) {
    if (limits_.keep == engine::Keep::Activations || layer + 1 == network_->config().layers) return;
    forward_attention(batch, layer);
    forward_activation(batch, layer);
    products_.adapt(groups_->at(layer, kDownGroup), buffers_->layer(layer, batch.tokens()).act);
}

void Computation::norm_backward(const engine::Norm& norm, ConstDeviceMatrix dy, ConstDeviceMatrix x,
                                const float* stats, DeviceMatrix dx, Write write) {
    if (norm.kind == NormKind::Rms) {
        kernels::cuda::rms_norm_backward(*stream_, {norm.weight, norm.epsilon, 1}, dy, x, stats, dx, write,
                                         norm.weight_gradient, buffers_->scratch());
    } else {
        kernels::cuda::layer_norm_backward(*stream_, dy, x, norm.weight, stats, stats + x.rows, dx, write,
                                           norm.weight_gradient, norm.bias_gradient, buffers_->scratch());
    }
}

// `gradient` (M, q | k) becomes that of what the heads' norms read.
void Computation::norm_heads_backward(std::size_t layer, const LayerBuffers& b, DeviceMatrix gradient) {
    if (!network_->has(kQueryNorm)) return;
    const ModelConfig& config = network_->config();
    const std::size_t q = config.query_width(), k = config.key_width();
    const engine::Norm query = norm(layer, kQueryNorm), key = norm(layer, kKeyNorm);
    const DeviceMatrix dq = gradient.columns(0, q), dk = gradient.columns(q, k);
    kernels::cuda::rms_norm_backward(*stream_, {query.weight, query.epsilon, config.heads}, dq,
                                     b.qkv.columns(0, q), b.heads_rstd, dq, Write::Overwrite,
                                     query.weight_gradient, buffers_->scratch());
    kernels::cuda::rms_norm_backward(*stream_, {key.weight, key.epsilon, config.kv_heads}, dk,
                                     b.qkv.columns(q, k), b.heads_rstd + config.heads * b.qkv.rows, dk,
                                     Write::Overwrite, key.weight_gradient, buffers_->scratch());
}

// From d(normed), which head_losses() left, to the gradient of the residual stream: rows that do not count
// are 0.
void Computation::backward_head(const MicroBatch& batch) {
    const std::size_t rows = batch.chunks * logit_rows(limits_);
    const HeadBuffers head = buffers_->head(batch.tokens());
    const BackwardBuffers backward = buffers_->backward(batch.tokens());
    const DeviceMatrix d_input = head.normed.slice(0, rows);  // the normed rows have served
    norm_backward(network_->final_norm(trained_.params, trained_.gradients), backward.head.slice(0, rows),
                  head.input.slice(0, rows), head.stats, d_input, Write::Overwrite);
    kernels::cuda::fill_bytes(*stream_, backward.stream.data, 0,
                              batch.tokens() * backward.stream.pitch * sizeof(BF16));
    kernels::cuda::scatter_rows(*stream_, d_input, buffers_->batch().places, backward.stream);
}

void Computation::backward_mlp(const MicroBatch& batch, std::size_t layer, const engine::Needs& need) {
    const std::size_t f = network_->config().intermediate;
    const LayerBuffers b = buffers_->layer(layer, batch.tokens());
    const BackwardBuffers backward = buffers_->backward(batch.tokens());
    const DeviceMatrix d_act = need.act ? backward.wide.columns(0, f) : DeviceMatrix();
    products_.backward(groups_->at(layer, kDownGroup), backward.stream, b.act, d_act);
    if (!need.act) return;
    if (network_->has(kGate)) {
        kernels::cuda::swiglu_backward(*stream_, d_act, b.gate_up.columns(0, f), b.gate_up.columns(f, f), {});
    } else {
        kernels::cuda::gelu_backward(*stream_, d_act, b.gate_up.columns(0, f));
    }
    products_.backward(groups_->at(layer, kGateUpGroup), b.gate_up, b.normed_mlp,
                       need.mlp_input ? backward.normed : DeviceMatrix());
    if (!need.mlp_input) return;
    norm_backward(norm(layer, kMlpNorm), backward.normed, b.middle, b.stats_mlp, backward.stream,
                  Write::Accumulate);
}

void Computation::backward_attention(const MicroBatch& batch, std::size_t layer, const engine::Needs& need) {
    const ModelConfig& config = network_->config();
    const std::size_t q = config.query_width(), k = config.key_width();
    const LayerBuffers b = buffers_->layer(layer, batch.tokens());
    const BackwardBuffers backward = buffers_->backward(batch.tokens());
    const DeviceMatrix d_attended = need.qkv ? backward.wide.columns(0, q) : DeviceMatrix();
    products_.backward(groups_->at(layer, kOGroup), backward.stream, b.attended, d_attended);
    if (!need.qkv) return;
    const DeviceMatrix both = query_key(b);
    const DeviceMatrix d_both = backward.qkv.columns(0, q + k);
    kernels::cuda::attention_backward(*stream_, attention_shape(batch), first_key(layer), both.columns(0, q),
                                      both.columns(q, k), b.qkv.columns(q + k, k), b.attended, b.log_sum_exp,
                                      d_attended, buffers_->scratch(), d_both.columns(0, q),
                                      d_both.columns(q, k), backward.qkv.columns(q + k, k));
    turn(d_both, kernels::Turn::Backward);
    norm_heads_backward(layer, b, d_both);
    products_.backward(groups_->at(layer, kQkvGroup), backward.qkv, b.normed,
                       need.attention_input ? backward.normed : DeviceMatrix());
    if (!need.attention_input) return;
    norm_backward(norm(layer, kInputNorm), backward.normed, b.input, b.stats, backward.stream,
                  Write::Accumulate);
}

void Computation::embed_backward(const MicroBatch& batch) {
    const DeviceMatrix stream = buffers_->backward(batch.tokens()).stream;
    const auto add = [&](Part part, const std::int32_t* rows) {
        const kernels::Matrix table = network_->table_gradient(part, trained_.gradients);
        if (table.data != nullptr) kernels::cuda::embedding_backward(*stream_, rows, stream, table);
    };
    add(kEmbedding, buffers_->batch().tokens);
    add(kPositions, buffers_->batch().positions);
}

}  // namespace fedllm::client::cuda_engine
