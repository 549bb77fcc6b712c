#include "client/engine/transformer.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "client/engine/linear.hpp"
#include "client/engine/rows.hpp"
#include "client/engine/step.hpp"
#include "kernels/attention/op.hpp"
#include "kernels/cross_entropy/op.hpp"
#include "kernels/embedding/op.hpp"
#include "kernels/matmul/op.hpp"

namespace fedllm::client::engine {

using kernels::ConstMatrix;
using kernels::Matrix;
using namespace model;  // the parts' names

Transformer::Transformer(kernels::ThreadPool* pool, Network network, Limits limits)
    : pool_(pool), network_(std::move(network)), limits_(limits) {
    first_trained_ = network_.binding().first_trained_layer();
}

Result<Transformer> Transformer::create(kernels::ThreadPool& pool, Network network, Limits limits) {
    FEDLLM_TRY_VOID(check_limits(network, limits));
    Transformer made(&pool, std::move(network), limits);
    made.rotation_ = Rotation(made.network_.config(), limits.tokens_per_row);
    if (made.network_.config().window != 0) {
        made.window_first_key_.resize(limits.rows * limits.tokens_per_row);
    }
    made.places_.resize(limits.rows * limits.tokens_per_row);
    made.targets_.resize(limits.rows * limits.tokens_per_row);
    Carver measure;
    made.lay_out(measure);
    made.arena_ = Arena(measure.used());
    Carver place(made.arena_.data());
    made.lay_out(place);
    return made;
}

std::size_t Transformer::buffer_bytes(const Network& network, Limits limits) {
    Transformer measured(nullptr, network, limits);
    Carver measure;
    measured.lay_out(measure);
    return measure.used() * sizeof(float);
}

void Transformer::lay_out(Carver& carver) {
    const model::ModelConfig& config = network_.config();
    const std::size_t m = limits_.rows * limits_.tokens_per_row;
    const bool trained = network_.binding().trained();
    layers_.resize(trained ? std::max<std::size_t>(1, config.layers - first_trained_) : 1);
    LayerBuffers shared;
    if (limits_.keep == Keep::LayerInputs) lay_out_layer(carver, shared);
    for (LayerBuffers& layer : layers_) {
        layer = shared;
        if (limits_.keep == Keep::Activations) lay_out_layer(carver, layer);
        lay_out_kept(carver, layer);
    }
    head_ = {carver.take(m * config.hidden),
             carver.take(m * config.hidden),
             carver.take(m * config.hidden),
             carver.take(2 * m),
             carver.take(std::min(m, kLogitRows) * config.vocab),
             carver.take(m)};
    if (!trained) return;
    backward_ = {carver.take(m * config.hidden),
                 carver.take(m * config.hidden),
                 carver.take(m * std::max(config.intermediate, config.query_width())),
                 carver.take(m * (config.query_width() + 2 * config.key_width())),
                 carver.take(m * network_.binding().rank_max),
                 carver.take(m * config.heads)};
}

void Transformer::lay_out_layer(Carver& carver, LayerBuffers& layer) {
    const model::ModelConfig& config = network_.config();
    const std::size_t m = limits_.rows * limits_.tokens_per_row;
    for (float** rows : {&layer.normed, &layer.middle, &layer.normed_mlp}) {
        *rows = carver.take(m * config.hidden);
    }
    layer.stats = carver.take(2 * m);
    layer.stats_mlp = carver.take(2 * m);
    layer.qkv = carver.take(m * (config.query_width() + 2 * config.key_width()));
    if (network_.has(kQueryNorm)) {
        layer.heads = carver.take(m * (config.query_width() + config.key_width()));
        layer.heads_rstd = carver.take(m * (config.heads + config.kv_heads));
    }
    layer.attended = carver.take(m * config.query_width());
    layer.log_sum_exp = carver.take(m * config.heads);
    if (network_.has(kGate)) layer.gate = carver.take(m * config.intermediate);
    layer.up = carver.take(m * config.intermediate);
    layer.act = carver.take(m * config.intermediate);
    for (std::size_t part = 0; part < kDown; ++part) {
        layer.lora[part] = carver.take(m * network_.rank(static_cast<Part>(part)));
    }
}

void Transformer::lay_out_kept(Carver& carver, LayerBuffers& layer) {
    const std::size_t m = limits_.rows * limits_.tokens_per_row;
    layer.input = carver.take(m * network_.config().hidden);
    layer.lora[kDown] = carver.take(m * network_.rank(kDown));
}

// Layers below the first trained one run through the buffers of that one, each overwriting the one before.
Transformer::LayerBuffers& Transformer::buffers(std::size_t layer) {
    return layers_[layer <= first_trained_ ? 0 : std::min(layer - first_trained_, layers_.size() - 1)];
}

Result<void> Transformer::check(const BatchView& batch, const tensor::ParamSet& params) const {
    FEDLLM_CHECK(batch.rows <= limits_.rows, "the batch must fit the limits given at creation");
    FEDLLM_CHECK(params.values().size() == network_.parameters(), "parameters have the network's manifest");
    return check_batch(network_, limits_, batch);
}

Result<StepResult> Transformer::forward_backward(const BatchView& batch, const tensor::ParamSet& params,
                                                 tensor::ParamSet& gradients, float gradient_scale) {
    FEDLLM_CHECK(network_.binding().trained(), "nothing is trained");
    FEDLLM_CHECK(gradients.values().size() == network_.parameters(), "gradients have the network's manifest");
    FEDLLM_TRY_VOID(check(batch, params));
    const Step step{batch, params.values().data(), gradients.values().data(),
                    batch.rows * batch.tokens_per_row};
    forward_stream(step);
    gather_counted(step);
    if (counted_ == 0) return StepResult{};
    normalise_head(step);
    const double loss_sum = head_losses(step, gradient_scale);
    backward_head(step);
    for (std::size_t layer = network_.config().layers; layer-- > first_trained_;) {
        const Needs need = network_.needs(layer);
        recompute(step, layer);
        backward_mlp(step, layer, need);
        if (need.middle) backward_attention(step, layer, need);
    }
    embed_backward(step);
    return StepResult{loss_sum, counted_};
}

Result<StepResult> Transformer::forward_loss(const BatchView& batch, const tensor::ParamSet& params) {
    FEDLLM_TRY_VOID(check(batch, params));
    const Step step{batch, params.values().data(), nullptr, batch.rows * batch.tokens_per_row};
    forward_stream(step);
    gather_counted(step);
    if (counted_ == 0) return StepResult{};
    normalise_head(step);
    const double loss_sum = head_losses(step, 0.0F);
    return StepResult{loss_sum, counted_};
}

Result<void> Transformer::logits(const BatchView& batch, const tensor::ParamSet& params,
                                 std::span<const std::int32_t> places, Matrix out) {
    FEDLLM_TRY_VOID(check(batch, params));
    const Step step{batch, params.values().data(), nullptr, batch.rows * batch.tokens_per_row};
    FEDLLM_CHECK(places.size() <= step.tokens && out.rows == places.size(), "at most one row per token");
    forward_stream(step);
    counted_ = places.size();
    std::copy(places.begin(), places.end(), places_.begin());
    const std::size_t hidden = network_.config().hidden;
    gather_rows(*pool_, ConstMatrix(head_.stream, step.tokens, hidden), places,
                Matrix(head_.input, counted_, hidden));
    normalise_head(step);
    const Linear head = network_.head(step.params, nullptr);
    linear_forward(*pool_, head, ConstMatrix(head_.normed, counted_, hidden), {}, out);
    counted_ = 0;
    return {};
}

void Transformer::forward_stream(const Step& step) {
    const std::size_t hidden = network_.config().hidden;
    const std::size_t layers = network_.config().layers;
    look_through_window(step);
    embed(step, Matrix(layers == 0 ? head_.stream : buffers(0).input, step.tokens, hidden));
    for (std::size_t layer = 0; layer < layers; ++layer) {
        forward_attention(step, layer);
        float* output = layer + 1 == layers ? head_.stream : buffers(layer + 1).input;
        forward_mlp(step, layer, Matrix(output, step.tokens, hidden));
    }
}

void Transformer::embed(const Step& step, Matrix stream) {
    kernels::embedding_forward(*pool_, step.batch.tokens, network_.table(kEmbedding, step.params), stream);
    if (!network_.has(kPositions)) return;
    const Matrix positions(buffers(0).normed, step.tokens, stream.cols);
    kernels::embedding_forward(*pool_, step.batch.positions, network_.table(kPositions, step.params),
                               positions);
    add_rows(*pool_, positions, stream);
}

void Transformer::embed_backward(const Step& step) {
    const ConstMatrix stream(backward_.stream, step.tokens, network_.config().hidden);
    if (const Matrix table = network_.table_gradient(kEmbedding, step.gradients); table.data != nullptr) {
        kernels::embedding_backward(*pool_, step.batch.tokens, stream, table);
    }
    if (const Matrix table = network_.table_gradient(kPositions, step.gradients); table.data != nullptr) {
        kernels::embedding_backward(*pool_, step.batch.positions, stream, table);
    }
}

// The first key of each token once more, for layers where it sees only the last `window` ones.
void Transformer::look_through_window(const Step& step) {
    const auto window = static_cast<std::int32_t>(network_.config().window);
    if (window == 0) return;
    const std::size_t tokens = step.batch.tokens_per_row;
    for (std::size_t i = 0; i < step.tokens; ++i) {
        const auto t = static_cast<std::int32_t>(i % tokens);
        window_first_key_[i] = std::max(step.batch.first_key[i], t - window + 1);
    }
}

const std::int32_t* Transformer::first_key(const Step& step, std::size_t layer) const {
    const bool all = network_.config().window_of(layer) == 0;
    return all ? step.batch.first_key.data() : window_first_key_.data();
}

// What attention reads: q and k are where their heads' norms put them, if the family has those.
QkvViews Transformer::attention_inputs(std::size_t layer, std::size_t rows) {
    const model::ModelConfig& config = network_.config();
    QkvViews views = split_qkv(config, buffers(layer).qkv, rows);
    if (!network_.has(kQueryNorm)) return views;
    const std::size_t q = config.query_width();
    const Matrix heads(buffers(layer).heads, rows, q + config.key_width());
    views.q = heads.columns(0, q);
    views.k = heads.columns(q, config.key_width());
    return views;
}

void Transformer::project(const Step& step, std::size_t layer, Part part, ConstMatrix x, Matrix y) {
    const Linear linear = network_.linear(layer, part, step.params, nullptr);
    linear_forward(*pool_, linear, x, Matrix(buffers(layer).lora[part], x.rows, linear.lora.a.rows), y);
}

// middle = input + o(attention(rope(q), rope(k), v)).
void Transformer::forward_attention(const Step& step, std::size_t layer) {
    const model::ModelConfig& config = network_.config();
    LayerBuffers& b = buffers(layer);
    const ConstMatrix input(b.input, step.tokens, config.hidden);
    const Matrix normed(b.normed, step.tokens, config.hidden);
    norm_forward(*pool_, network_.norm(layer, kInputNorm, step.params, nullptr), input, normed, b.stats);
    const QkvViews made = split_qkv(config, b.qkv, step.tokens);
    for (const Columns& to : network_.qkv()) {
        project(step, layer, to.part, normed, made.all.columns(to.first, to.width));
    }
    const auto [all, q, k, v] = attention_inputs(layer, step.tokens);
    if (network_.has(kQueryNorm)) {
        norm_heads_forward(*pool_, network_.norm(layer, kQueryNorm, step.params, nullptr), config.head_size,
                           made.q, q, b.heads_rstd);
        norm_heads_forward(*pool_, network_.norm(layer, kKeyNorm, step.params, nullptr), config.head_size,
                           made.k, k, b.heads_rstd + config.heads * step.tokens);
    }
    rotation_.turn(*pool_, q, step.batch.positions.data(), kernels::Turn::Forward);
    rotation_.turn(*pool_, k, step.batch.positions.data(), kernels::Turn::Forward);
    const Matrix attended(b.attended, step.tokens, config.query_width());
    kernels::attention_forward(*pool_, attention_shape(config, step.batch), first_key(step, layer), q, k, v,
                               attended, b.log_sum_exp);
    const Matrix middle(b.middle, step.tokens, config.hidden);
    project(step, layer, kO, attended, middle);
    add_rows(*pool_, input, middle);
}

// output = middle + down(act).
void Transformer::forward_mlp(const Step& step, std::size_t layer, Matrix output) {
    forward_activation(step, layer);
    const LayerBuffers& b = buffers(layer);
    project(step, layer, kDown, ConstMatrix(b.act, step.tokens, network_.config().intermediate), output);
    add_rows(*pool_, ConstMatrix(b.middle, step.tokens, output.cols), output);
}

// act = silu(gate) * up or gelu(up).
void Transformer::forward_activation(const Step& step, std::size_t layer) {
    const model::ModelConfig& config = network_.config();
    LayerBuffers& b = buffers(layer);
    const ConstMatrix middle(b.middle, step.tokens, config.hidden);
    const Matrix normed(b.normed_mlp, step.tokens, config.hidden);
    norm_forward(*pool_, network_.norm(layer, kMlpNorm, step.params, nullptr), middle, normed, b.stats_mlp);
    const Matrix gate(b.gate, step.tokens, config.intermediate);
    const Matrix up(b.up, step.tokens, config.intermediate);
    const Matrix act(b.act, step.tokens, config.intermediate);
    if (network_.has(kGate)) project(step, layer, kGate, normed, gate);
    project(step, layer, kUp, normed, up);
    activation_forward(*pool_, config.family->activation, gate, up, act);
}

// The activations of a layer of which only the input was kept. The last layer's are still there.
void Transformer::recompute(const Step& step, std::size_t layer) {
    if (limits_.keep == Keep::Activations || layer + 1 == network_.config().layers) return;
    forward_attention(step, layer);
    forward_activation(step, layer);
}

// Only tokens with a target reach the head: prompts and padding cost no row of vocabulary width.
void Transformer::gather_counted(const Step& step) {
    counted_ = 0;
    for (std::size_t i = 0; i < step.tokens; ++i) {
        if (step.batch.targets[i] == kernels::kIgnoreIndex) continue;
        places_[counted_] = static_cast<std::int32_t>(i);
        targets_[counted_++] = step.batch.targets[i];
    }
    const std::size_t hidden = network_.config().hidden;
    gather_rows(*pool_, ConstMatrix(head_.stream, step.tokens, hidden), {places_.data(), counted_},
                Matrix(head_.input, counted_, hidden));
}

void Transformer::normalise_head(const Step& step) {
    const std::size_t hidden = network_.config().hidden;
    norm_forward(*pool_, network_.final_norm(step.params, nullptr),
                 ConstMatrix(head_.input, counted_, hidden), Matrix(head_.normed, counted_, hidden),
                 head_.stats);
}

// Chunk by chunk: logits, losses and, with gradients, d(normed) and the head's own gradient.
double Transformer::head_losses(const Step& step, float gradient_scale) {
    const std::size_t hidden = network_.config().hidden;
    const Linear head = network_.head(step.params, step.gradients);
    for (std::size_t first = 0; first < counted_; first += kLogitRows) {
        const std::size_t rows = std::min(kLogitRows, counted_ - first);
        const ConstMatrix normed(head_.normed + first * hidden, rows, hidden);
        const Matrix logits(head_.logits, rows, network_.config().vocab);
        const std::span targets(targets_.data() + first, rows);
        const std::span losses(head_.losses + first, rows);
        linear_forward(*pool_, head, normed, {}, logits);
        if (step.gradients == nullptr) {
            kernels::cross_entropy_forward(*pool_, logits, targets, losses);
            continue;
        }
        kernels::cross_entropy_forward_backward(*pool_, logits, targets, losses, gradient_scale);
        linear_backward(*pool_, head, logits, normed, {}, {},
                        Matrix(backward_.normed + first * hidden, rows, hidden));
    }
    double sum = 0;
    for (const float loss : losses()) sum += loss;
    return sum;
}

}  // namespace fedllm::client::engine
