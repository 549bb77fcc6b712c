#include "client/engine/linear.hpp"
#include "client/engine/rows.hpp"
#include "client/engine/step.hpp"
#include "client/engine/transformer.hpp"
#include "kernels/attention/op.hpp"

namespace fedllm::client::engine {

using kernels::ConstMatrix;
using kernels::Matrix;
using kernels::Write;
using namespace model;  // the parts' names

void Transformer::backward_part(const Step& step, std::size_t layer, Part part, ConstMatrix dy, ConstMatrix x,
                                Matrix dx, Write write) {
    const Linear linear = network_.linear(layer, part, step.params, step.gradients);
    const std::size_t rank = linear.lora.a.rows;
    linear_backward(*pool_, linear, dy, x, ConstMatrix(buffers(layer).lora[part], step.tokens, rank),
                    Matrix(backward_.lora, step.tokens, rank), dx, write);
}

// From d(normed), which head_losses() left, to the gradient of the residual stream: rows that do not count
// are 0.
void Transformer::backward_head(const Step& step) {
    const std::size_t hidden = network_.config().hidden;
    const Matrix d_input(head_.normed, counted_, hidden);  // the normed rows have served
    norm_backward(*pool_, network_.final_norm(step.params, step.gradients),
                  ConstMatrix(backward_.normed, counted_, hidden), ConstMatrix(head_.input, counted_, hidden),
                  head_.stats, d_input, Write::Overwrite);
    scatter_rows(*pool_, d_input, {places_.data(), counted_}, Matrix(backward_.stream, step.tokens, hidden));
}

void Transformer::backward_mlp(const Step& step, std::size_t layer, const Needs& need) {
    const model::ModelConfig& config = network_.config();
    LayerBuffers& b = buffers(layer);
    const Matrix stream(backward_.stream, step.tokens, config.hidden);
    const Matrix d_act(need.act ? backward_.wide : nullptr, step.tokens, config.intermediate);
    backward_part(step, layer, kDown, stream, ConstMatrix(b.act, step.tokens, config.intermediate), d_act,
                  Write::Overwrite);
    if (!need.act) return;
    const Matrix gate(b.gate, step.tokens, config.intermediate);
    const Matrix up(b.up, step.tokens, config.intermediate);
    activation_backward(*pool_, config.family->activation, d_act, gate, up);
    const ConstMatrix normed(b.normed_mlp, step.tokens, config.hidden);
    const Matrix d_normed(need.mlp_input ? backward_.normed : nullptr, step.tokens, config.hidden);
    const bool gated = network_.has(kGate);
    if (gated) backward_part(step, layer, kGate, gate, normed, d_normed, Write::Overwrite);
    backward_part(step, layer, kUp, up, normed, d_normed, gated ? Write::Accumulate : Write::Overwrite);
    if (!need.mlp_input) return;
    norm_backward(*pool_, network_.norm(layer, kMlpNorm, step.params, step.gradients), d_normed,
                  ConstMatrix(b.middle, step.tokens, config.hidden), b.stats_mlp, stream, Write::Accumulate);
}

void Transformer::backward_attention(const Step& step, std::size_t layer, const Needs& need) {
    const model::ModelConfig& config = network_.config();
    LayerBuffers& b = buffers(layer);
    const Matrix stream(backward_.stream, step.tokens, config.hidden);
    const ConstMatrix attended(b.attended, step.tokens, config.query_width());
    const Matrix d_attended(need.qkv ? backward_.wide : nullptr, step.tokens, config.query_width());
    backward_part(step, layer, kO, stream, attended, d_attended, Write::Overwrite);
    if (!need.qkv) return;
    const auto [all, q, k, v] = attention_inputs(layer, step.tokens);
    const auto [d_all, dq, dk, dv] = split_qkv(config, backward_.qkv, step.tokens);
    kernels::attention_backward(*pool_, attention_shape(config, step.batch), first_key(step, layer), q, k, v,
                                attended, b.log_sum_exp, d_attended, backward_.dot, dq, dk, dv);
    rotation_.turn(*pool_, dq, step.batch.positions.data(), kernels::Turn::Backward);
    rotation_.turn(*pool_, dk, step.batch.positions.data(), kernels::Turn::Backward);
    if (network_.has(kQueryNorm)) {
        const QkvViews made = split_qkv(config, b.qkv, step.tokens);
        norm_heads_backward(*pool_, network_.norm(layer, kQueryNorm, step.params, step.gradients),
                            config.head_size, dq, made.q, b.heads_rstd, dq);
        norm_heads_backward(*pool_, network_.norm(layer, kKeyNorm, step.params, step.gradients),
                            config.head_size, dk, made.k, b.heads_rstd + config.heads * step.tokens, dk);
    }
    const ConstMatrix normed(b.normed, step.tokens, config.hidden);
    const Matrix d_normed(need.attention_input ? backward_.normed : nullptr, step.tokens, config.hidden);
    for (const Columns& from : network_.qkv()) {
        backward_part(step, layer, from.part, d_all.columns(from.first, from.width), normed, d_normed,
                      from.first == 0 ? Write::Overwrite : Write::Accumulate);
    }
    if (!need.attention_input) return;
    norm_backward(*pool_, network_.norm(layer, kInputNorm, step.params, step.gradients), d_normed,
                  ConstMatrix(b.input, step.tokens, config.hidden), b.stats, stream, Write::Accumulate);
}

}  // namespace fedllm::client::engine
