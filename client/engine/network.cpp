#include "client/engine/network.hpp"

#include <string>
#include <utility>

#include "kernels/attention/op.hpp"
#include "kernels/matmul/op.hpp"

namespace fedllm::client::engine {
namespace {

using adapter::kAbsent;
using adapter::LinearSlots;
using adapter::Offset;
using kernels::Matrix;
using kernels::WeightType;
using kernels::WeightView;
using model::LayerWeights;

constexpr std::array kWeights{&LayerWeights::q,    &LayerWeights::k,  &LayerWeights::v,   &LayerWeights::o,
                              &LayerWeights::gate, &LayerWeights::up, &LayerWeights::down};
constexpr std::array kBiases{&LayerWeights::q_bias,   &LayerWeights::k_bias,    &LayerWeights::v_bias,
                             &LayerWeights::o_bias,   &LayerWeights::gate_bias, &LayerWeights::up_bias,
                             &LayerWeights::down_bias};

Gain gain(Offset offset, std::span<const float> base, const float* params, float* gradients) {
    if (offset == kAbsent) return {base.data(), nullptr};
    return {params + offset, gradients == nullptr ? nullptr : gradients + offset};
}

bool holds(const WeightView& view, std::size_t rows, std::size_t cols) {
    const bool plain = view.type == WeightType::F32 || view.type == WeightType::BF16;
    return view.data != nullptr && view.rows == rows && view.cols == cols &&
           (plain || view.scales != nullptr);
}

Error missing(std::string what) {
    return make_error(
        Errc::InvalidModel,
        what + ": neither the base model nor the trained parameters hold it in the right shape");
}

}  // namespace

Result<Network> Network::create(const model::ModelConfig& config, const model::ModelWeights& base,
                                const tensor::Manifest& manifest, const tensor::LoraScales& lora_scales) {
    Network network;
    FEDLLM_TRY(network.binding_, adapter::Binding::create(config, manifest, lora_scales));
    network.config_ = config;
    network.base_ = base;
    network.base_.layers.resize(config.layers);
    network.shapes_ = model::projections(config);
    network.parameters_ = manifest.elements();
    FEDLLM_TRY_VOID(network.check());
    return network;
}

Result<void> Network::check() const {
    if (config_.head_size > kernels::kHeadSizeMax || config_.head_size % 2 != 0) {
        return make_error(Errc::Unsupported, "head size " + std::to_string(config_.head_size) +
                                                 ": an even number up to " +
                                                 std::to_string(kernels::kHeadSizeMax) + " is supported");
    }
    const auto norm_missing = [this](Offset offset, std::span<const float> norm) {
        return offset == kAbsent && norm.size() != config_.hidden;
    };
    for (std::size_t layer = 0; layer < config_.layers; ++layer) {
        const auto& slots = binding_.layers[layer];
        const LayerWeights& weights = base_.layers[layer];
        if (norm_missing(slots.input_norm, weights.input_norm)) {
            return missing(model::layer_name(layer, "input_layernorm"));
        }
        if (norm_missing(slots.post_attention_norm, weights.post_attention_norm)) {
            return missing(model::layer_name(layer, "post_attention_layernorm"));
        }
        for (std::size_t p = 0; p < shapes_.size(); ++p) {
            const bool weight = slots.linears[p].weight != kAbsent ||
                                holds(weights.*kWeights[p], shapes_[p].out, shapes_[p].in);
            const bool bias = !shapes_[p].bias || slots.linears[p].bias != kAbsent ||
                              (weights.*kBiases[p]).size() == shapes_[p].out;
            if (!weight || !bias) return missing(model::layer_name(layer, shapes_[p].path));
        }
    }
    if (norm_missing(binding_.final_norm, base_.final_norm)) return missing("model.norm");
    if (binding_.embedding == kAbsent && !holds(base_.embedding, config_.vocab, config_.hidden)) {
        return missing("model.embed_tokens");
    }
    if (!config_.tied_head && binding_.head == kAbsent && !holds(base_.head, config_.vocab, config_.hidden)) {
        return missing("lm_head");
    }
    return {};
}

Linear Network::linear(std::size_t layer, Part part, const float* params, float* gradients) const {
    const LinearSlots& slots = binding_.layers[layer].linears[part];
    const LayerWeights& base = base_.layers[layer];
    const model::Projection& shape = shapes_[part];
    Linear linear;
    linear.weight = slots.weight == kAbsent
                        ? base.*kWeights[part]
                        : WeightView{params + slots.weight, WeightType::F32, shape.out, shape.in};
    if (shape.bias) linear.bias = slots.bias == kAbsent ? (base.*kBiases[part]).data() : params + slots.bias;
    if (slots.rank != 0) linear.lora = lora_view(slots, shape, params);
    if (gradients == nullptr) return linear;
    if (slots.weight != kAbsent)
        linear.weight_gradient = Matrix(gradients + slots.weight, shape.out, shape.in);
    if (slots.bias != kAbsent) linear.bias_gradient = gradients + slots.bias;
    if (slots.rank != 0) linear.lora_gradient = lora_gradient_view(slots, shape, gradients);
    return linear;
}

// A tied head is the embedding table, and adds to its gradient.
Linear Network::head(const float* params, float* gradients) const {
    const Offset offset = config_.tied_head ? binding_.embedding : binding_.head;
    Linear linear;
    linear.weight = config_.tied_head ? base_.embedding : base_.head;
    if (offset == kAbsent) return linear;
    linear.weight = {params + offset, WeightType::F32, config_.vocab, config_.hidden};
    if (gradients != nullptr)
        linear.weight_gradient = Matrix(gradients + offset, config_.vocab, config_.hidden);
    return linear;
}

WeightView Network::embedding(const float* params) const {
    if (binding_.embedding == kAbsent) return base_.embedding;
    return {params + binding_.embedding, WeightType::F32, config_.vocab, config_.hidden};
}

Matrix Network::embedding_gradient(float* gradients) const {
    if (binding_.embedding == kAbsent || gradients == nullptr) return {};
    return Matrix(gradients + binding_.embedding, config_.vocab, config_.hidden);
}

Gain Network::input_norm(std::size_t layer, const float* params, float* gradients) const {
    return gain(binding_.layers[layer].input_norm, base_.layers[layer].input_norm, params, gradients);
}

Gain Network::post_attention_norm(std::size_t layer, const float* params, float* gradients) const {
    return gain(binding_.layers[layer].post_attention_norm, base_.layers[layer].post_attention_norm, params,
                gradients);
}

Gain Network::final_norm(const float* params, float* gradients) const {
    return gain(binding_.final_norm, base_.final_norm, params, gradients);
}

void linear_forward(kernels::ThreadPool& pool, const Linear& linear, kernels::ConstMatrix x, Matrix s,
                    Matrix y) {
    if (linear.has_lora()) {
        kernels::lora_matmul_forward(pool, x, linear.weight, linear.lora, s, y);
    } else {
        kernels::matmul_forward(pool, x, linear.weight, y);
    }
    if (linear.bias != nullptr) kernels::add_bias(pool, linear.bias, y);
}

void linear_backward(kernels::ThreadPool& pool, const Linear& linear, kernels::ConstMatrix dy,
                     kernels::ConstMatrix x, kernels::ConstMatrix s, Matrix ds, Matrix dx,
                     kernels::Write dx_write) {
    if (linear.has_lora()) {
        kernels::lora_matmul_backward(pool, dy, x, linear.weight, linear.lora, s, ds, dx,
                                      linear.lora_gradient, dx_write);
    } else if (dx.data != nullptr) {
        kernels::matmul_backward_input(pool, dy, linear.weight, dx, dx_write);
    }
    if (linear.weight_gradient.data != nullptr) {
        kernels::matmul_backward_weight(pool, dy, x, linear.weight_gradient);
    }
    if (linear.bias_gradient != nullptr) kernels::add_bias_backward(pool, dy, linear.bias_gradient);
}

}  // namespace fedllm::client::engine
