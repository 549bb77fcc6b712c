#include "client/cuda_engine/buffers.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "kernels/adamw/op_cuda.hpp"
#include "kernels/attention/op_cuda.hpp"
#include "kernels/layer_norm/op_cuda.hpp"
#include "kernels/matmul/op_cuda.hpp"
#include "kernels/rms_norm/op_cuda.hpp"

namespace fedllm::client::cuda_engine {
namespace {

using engine::Keep;
using engine::Limits;
using engine::Network;

constexpr std::size_t kLogitRows = 1024;

std::size_t norm_scratch(const Network& network, std::size_t rows) {
    const model::ModelConfig& config = network.config();
    if (config.family->norm == model::NormKind::Layer)
        return kernels::cuda::layer_norm_scratch(rows, config.hidden);
    std::size_t most = kernels::cuda::rms_norm_scratch(rows, config.hidden, 1);
    if (!network.has(model::kQueryNorm)) return most;
    most = std::max(most, kernels::cuda::rms_norm_scratch(rows, config.query_width(), config.heads));
    return std::max(most, kernels::cuda::rms_norm_scratch(rows, config.key_width(), config.kv_heads));
}

// Operations divide their rows so that a GPU is full: fewer rows may take more, and a micro-batch may have
// any number of them. They divide by multiples of 16.
template <class Of>
std::size_t most_of(std::size_t rows, Of&& of) {
    std::size_t most = of(rows);
    for (std::size_t fewer = 16; fewer < rows; fewer += 16) most = std::max(most, of(fewer));
    return most;
}

// Floats for the most demanding operation of a backward pass.
std::size_t scratch_floats(const Network& network, const Groups& groups, const Limits& limits) {
    const model::ModelConfig& config = network.config();
    const kernels::AttentionShape shape{limits.rows,     limits.tokens_per_row, config.heads,
                                        config.kv_heads, config.head_size,      1.0F};
    std::set<std::pair<std::size_t, std::size_t>> projections;  // outputs and rank
    for (std::size_t layer = 0; layer < groups.layers(); ++layer) {
        for (std::size_t kind = 0; kind < kGroupKinds; ++kind) {
            for (const auto& piece : groups.at(layer, static_cast<GroupKind>(kind)).pieces)
                projections.insert({piece.rows, piece.rank});
        }
    }
    std::size_t most = kernels::cuda::kNormBlocks * sizeof(double) / sizeof(float);
    most = std::max(most, (kernels::cuda::attention_scratch(shape) + 3) / sizeof(float));
    most = std::max(
        most, most_of(head_rows(limits), [&](std::size_t rows) { return norm_scratch(network, rows); }));
    for (const auto& [outputs, rank] : projections) {
        most = std::max(most, most_of(limits.rows * limits.tokens_per_row, [&](std::size_t rows) {
                            const std::size_t bias = kernels::cuda::bias_scratch(rows, outputs);
                            return std::max(bias, kernels::cuda::low_rank_scratch(rows, outputs, rank));
                        }));
    }
    return most;
}

// The widest rows that a product in FP8 reads: inputs, or gradients of outputs.
Fp8Matrix lay_out_fp8(const Network& network, const Groups& groups, const Limits& limits, Carver& carver) {
    if (!groups.any_fp8()) return {};
    std::size_t widest = 0;
    for (std::size_t layer = 0; layer < groups.layers(); ++layer) {
        for (std::size_t kind = 0; kind < kGroupKinds; ++kind) {
            const Group& group = groups.at(layer, static_cast<GroupKind>(kind));
            if (group.fp8) widest = std::max({widest, group.n, group.k});
        }
    }
    const std::size_t m = limits.rows * limits.tokens_per_row, chunk = logit_rows(limits);
    const std::size_t head = std::max(network.config().vocab, network.config().hidden);
    const std::size_t codes =
        std::max(m * Fp8Matrix::pitch_of(widest), groups.head_fp8() ? chunk * Fp8Matrix::pitch_of(head) : 0);
    const std::size_t rows = std::max(m, chunk);
    return {carver.take<std::uint8_t>(codes), carver.take<float>(rows), rows, 0};
}

LayerBuffers lay_out_layer(const Network& network, const Groups& groups, std::size_t m, Carver& carver) {
    const model::ModelConfig& config = network.config();
    const auto room = [&](GroupKind kind) { return groups.r_max(kind); };
    LayerBuffers layer;
    layer.normed = carver.matrix(m, config.hidden, room(kQkvGroup));
    layer.qkv = carver.matrix(m, config.query_width() + 2 * config.key_width());
    if (network.has(model::kQueryNorm)) {
        layer.heads = carver.matrix(m, config.query_width() + config.key_width());
        layer.heads_rstd = carver.take<float>(m * (config.heads + config.kv_heads));
    }
    layer.attended = carver.matrix(m, config.query_width(), room(kOGroup));
    layer.middle = carver.matrix(m, config.hidden);
    layer.normed_mlp = carver.matrix(m, config.hidden, room(kGateUpGroup));
    layer.gate_up = carver.matrix(m, groups.at(0, kGateUpGroup).n, room(kGateUpGroup));
    layer.act = carver.matrix(m, config.intermediate, room(kDownGroup));
    layer.stats = carver.take<float>(2 * m);
    layer.stats_mlp = carver.take<float>(2 * m);
    layer.log_sum_exp = carver.take<float>(m * config.heads);
    return layer;
}

}  // namespace

std::size_t logit_rows(const Limits& limits) {
    return std::min(kLogitRows, round_up(limits.rows * limits.tokens_per_row, 8));
}
std::size_t head_rows(const Limits& limits) {
    return round_up(limits.rows * limits.tokens_per_row, logit_rows(limits));
}

BatchArrays BatchArrays::lay_out(const Network& network, const Limits& limits, Carver& carver) {
    const std::size_t m = limits.rows * limits.tokens_per_row;
    const std::size_t before = carver.used();
    BatchArrays arrays;
    arrays.tokens = carver.take<std::int32_t>(m);
    arrays.positions = carver.take<std::int32_t>(m);
    arrays.first_key = carver.take<std::int32_t>(m);
    arrays.window_first_key = carver.take<std::int32_t>(network.config().window == 0 ? 0 : m);
    arrays.places = carver.take<std::int32_t>(head_rows(limits));
    arrays.targets = carver.take<std::int32_t>(head_rows(limits));
    arrays.gradient_scale = carver.take<float>(1);
    arrays.bytes = carver.used() - before;
    return arrays;
}

Buffers::Buffers(const Network& network, const Groups& groups, const Limits& limits)
    : memory_(bytes(network, groups, limits)) {
    Carver place(memory_.data());
    lay_out(network, groups, limits, place);
}

std::size_t Buffers::bytes(const Network& network, const Groups& groups, const Limits& limits) {
    Buffers measured;
    Carver measure;
    measured.lay_out(network, groups, limits, measure);
    return measure.used();
}

void Buffers::lay_out(const Network& network, const Groups& groups, const Limits& limits, Carver& carver) {
    const model::ModelConfig& config = network.config();
    const std::size_t m = limits.rows * limits.tokens_per_row;
    const std::size_t counted = head_rows(limits);
    const bool trained = network.binding().trained();
    first_trained_ = network.binding().first_trained_layer();
    layers_.resize(trained ? std::max<std::size_t>(1, config.layers - first_trained_) : 1);
    LayerBuffers shared;
    if (limits.keep == Keep::LayerInputs) shared = lay_out_layer(network, groups, m, carver);
    for (LayerBuffers& layer : layers_) {
        layer = limits.keep == Keep::LayerInputs ? shared : lay_out_layer(network, groups, m, carver);
        layer.input = carver.matrix(m, config.hidden);
    }
    head_.stream = carver.matrix(m, config.hidden);
    head_.input = carver.matrix(counted, config.hidden);
    head_.normed = carver.matrix(counted, config.hidden);
    head_.logits = carver.matrix(logit_rows(limits), config.vocab);
    head_.stats = carver.take<float>(2 * counted);
    head_.losses = carver.take<float>(counted);
    head_.loss_sum = carver.take<double>(1);
    batch_ = BatchArrays::lay_out(network, limits, carver);
    fp8_ = lay_out_fp8(network, groups, limits, carver);
    if (!trained) return;
    backward_.stream =
        carver.matrix(m, config.hidden, std::max(groups.r_max(kOGroup), groups.r_max(kDownGroup)));
    backward_.normed = carver.matrix(m, config.hidden);
    backward_.wide = carver.matrix(m, std::max(config.intermediate, config.query_width()));
    backward_.qkv = carver.matrix(m, config.query_width() + 2 * config.key_width(), groups.r_max(kQkvGroup));
    backward_.head = carver.matrix(counted, config.hidden);
    scratch_ = carver.take<float>(scratch_floats(network, groups, limits));
}

void Buffers::clear(const kernels::cuda::Stream& stream) const {
    kernels::cuda::fill_bytes(stream, memory_.data(), 0, memory_.bytes());
}

// Layers below the first trained one run through the buffers of that one, each overwriting the one before.
LayerBuffers Buffers::layer(std::size_t layer, std::size_t rows) const {
    LayerBuffers b =
        layers_[layer <= first_trained_ ? 0 : std::min(layer - first_trained_, layers_.size() - 1)];
    for (DeviceMatrix* matrix :
         {&b.input, &b.normed, &b.qkv, &b.heads, &b.attended, &b.middle, &b.normed_mlp, &b.gate_up, &b.act}) {
        matrix->rows = rows;
    }
    return b;
}

HeadBuffers Buffers::head(std::size_t rows) const {
    HeadBuffers b = head_;
    b.stream.rows = rows;
    return b;
}

BackwardBuffers Buffers::backward(std::size_t rows) const {
    BackwardBuffers b = backward_;
    for (DeviceMatrix* matrix : {&b.stream, &b.normed, &b.wide, &b.qkv}) matrix->rows = rows;
    return b;
}

}  // namespace fedllm::client::cuda_engine
