#include "client/engine/rows.hpp"
#include "client/engine/step.hpp"
#include "client/engine/transformer.hpp"
#include "kernels/attention/op.hpp"
#include "kernels/rms_norm/op.hpp"
#include "kernels/rope/op.hpp"
#include "kernels/swiglu/op.hpp"

namespace fedllm::client::engine {

using kernels::ConstMatrix;
using kernels::Matrix;
using kernels::Write;

// A gradient is formed only if something at or below its place is trained.
Transformer::Needs Transformer::needs(std::size_t layer) const {
    const adapter::LayerSlots& slots = network_.binding().layers[layer];
    const auto trained = [&](Part part) { return slots.linears[part].trained(); };
    Needs need;
    const bool below = layer > first_trained_ || network_.binding().embedding != adapter::kAbsent;
    need.attention_input = below || slots.input_norm != adapter::kAbsent;
    need.qkv = need.attention_input || trained(kQ) || trained(kK) || trained(kV);
    need.middle = need.qkv || trained(kO);
    need.mlp_input = need.middle || slots.post_attention_norm != adapter::kAbsent;
    need.act = need.mlp_input || trained(kGate) || trained(kUp);
    return need;
}

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
    const Gain norm = network_.final_norm(step.params, step.gradients);
    const Matrix d_input(head_.normed, counted_, hidden);  // the normed rows have served
    kernels::rms_norm_backward(*pool_, ConstMatrix(backward_.normed, counted_, hidden),
                               ConstMatrix(head_.input, counted_, hidden), norm.weight, head_.rstd, d_input,
                               Write::Overwrite, norm.gradient);
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
    kernels::swiglu_backward(*pool_, d_act, gate, up, gate, up);
    const ConstMatrix normed(b.normed_mlp, step.tokens, config.hidden);
    const Matrix d_normed(need.mlp_input ? backward_.normed : nullptr, step.tokens, config.hidden);
    backward_part(step, layer, kGate, gate, normed, d_normed, Write::Overwrite);
    backward_part(step, layer, kUp, up, normed, d_normed, Write::Accumulate);
    if (!need.mlp_input) return;
    const Gain norm = network_.post_attention_norm(layer, step.params, step.gradients);
    kernels::rms_norm_backward(*pool_, d_normed, ConstMatrix(b.middle, step.tokens, config.hidden),
                               norm.weight, b.rstd_mlp, stream, Write::Accumulate, norm.gradient);
}

void Transformer::backward_attention(const Step& step, std::size_t layer, const Needs& need) {
    const model::ModelConfig& config = network_.config();
    LayerBuffers& b = buffers(layer);
    const Matrix stream(backward_.stream, step.tokens, config.hidden);
    const ConstMatrix attended(b.attended, step.tokens, config.query_width());
    const Matrix d_attended(need.qkv ? backward_.wide : nullptr, step.tokens, config.query_width());
    backward_part(step, layer, kO, stream, attended, d_attended, Write::Overwrite);
    if (!need.qkv) return;
    const auto [q, k, v] = split_qkv(config, b.qkv, step.tokens);
    const auto [dq, dk, dv] = split_qkv(config, backward_.qkv, step.tokens);
    kernels::attention_backward(*pool_, attention_shape(config, step.batch), step.batch.first_key.data(), q,
                                k, v, attended, b.log_sum_exp, d_attended, backward_.dot, dq, dk, dv);
    const std::int32_t* positions = step.batch.positions.data();
    kernels::rope(*pool_, dq, config.heads, config.head_size, positions, cosine_.data(), sine_.data(),
                  kernels::Turn::Backward);
    kernels::rope(*pool_, dk, config.kv_heads, config.head_size, positions, cosine_.data(), sine_.data(),
                  kernels::Turn::Backward);
    const ConstMatrix normed(b.normed, step.tokens, config.hidden);
    const Matrix d_normed(need.attention_input ? backward_.normed : nullptr, step.tokens, config.hidden);
    backward_part(step, layer, kQ, dq, normed, d_normed, Write::Overwrite);
    backward_part(step, layer, kK, dk, normed, d_normed, Write::Accumulate);
    backward_part(step, layer, kV, dv, normed, d_normed, Write::Accumulate);
    if (!need.attention_input) return;
    const Gain norm = network_.input_norm(layer, step.params, step.gradients);
    kernels::rms_norm_backward(*pool_, d_normed, ConstMatrix(b.input, step.tokens, config.hidden),
                               norm.weight, b.rstd, stream, Write::Accumulate, norm.gradient);
}

}  // namespace fedllm::client::engine
