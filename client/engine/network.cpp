#include "client/engine/network.hpp"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>

#include "kernels/attention/op.hpp"

namespace fedllm::client::engine {
namespace {

using adapter::kAbsent;
using adapter::Offset;
using adapter::Slots;
using kernels::Matrix;
using kernels::WeightType;
using kernels::WeightView;
using model::PartWeights;

bool holds(const WeightView& view, std::size_t rows, std::size_t cols) {
    const bool plain = view.type == WeightType::F32 || view.type == WeightType::BF16;
    return view.data != nullptr && view.rows == rows && view.cols == cols &&
           (plain || view.scales != nullptr);
}

bool holds(const PartWeights& base, const model::ModelTensor& tensor, model::Storage storage) {
    const auto& shape = tensor.spec.shape;
    if (tensor.is_bias) return base.bias.size() == shape[0];
    if (shape.size() == 1) return holds(base.weight, 1, shape[0]);
    const bool turned = model::is_linear(tensor.part) && storage == model::Storage::InOut;
    return holds(base.weight, shape[turned ? 1 : 0], shape[turned ? 0 : 1]);
}

const float* value(Offset offset, const float* base, const float* params) {
    return offset == kAbsent ? base : params + offset;
}

float* gradient(Offset offset, float* gradients) {
    return offset == kAbsent || gradients == nullptr ? nullptr : gradients + offset;
}

}  // namespace

Result<Network> Network::create(const model::ModelConfig& config, const model::ModelWeights& base,
                                const tensor::Manifest& manifest, const tensor::LoraScales& lora_scales) {
    Network network;
    FEDLLM_TRY(network.binding_, adapter::Binding::create(config, manifest, lora_scales));
    network.config_ = config;
    network.base_ = base;
    network.base_.layers.resize(config.layers);
    for (const model::Projection& shape : model::projections(config)) network.shapes_[shape.part] = shape;
    std::size_t first = 0;
    for (const Part part : {model::kQ, model::kK, model::kV, model::kQkv}) {
        if (!network.has(part)) continue;
        network.qkv_.push_back({part, first, network.shapes_[part].out});
        first += network.shapes_[part].out;
    }
    network.parameters_ = manifest.elements();
    FEDLLM_TRY_VOID(network.check());
    return network;
}

Result<void> Network::check() const {
    if (config_.head_size > kernels::kHeadSizeMax) {
        return make_error(Errc::Unsupported, "head size " + std::to_string(config_.head_size) + ": up to " +
                                                 std::to_string(kernels::kHeadSizeMax) + " is supported");
    }
    for (const model::ModelTensor& tensor : model::model_tensors(config_)) {
        const Slots& slots = binding_.at(tensor.part, tensor.layer);
        const bool trained = (tensor.is_bias ? slots.bias : slots.weight) != kAbsent;
        if (!trained && !holds(base_.at(tensor.part, tensor.layer), tensor, config_.family->storage)) {
            return make_error(
                Errc::InvalidModel,
                tensor.spec.name +
                    ": neither the base model nor the trained parameters hold it in the right shape");
        }
        if (trained && slots.rank != 0 && config_.family->storage == model::Storage::InOut) {
            return make_error(
                Errc::Unsupported,
                tensor.spec.name + ": a Conv1D layer is trained itself or by an adapter, not both");
        }
    }
    return {};
}

std::size_t Network::rank(Part part) const {
    std::size_t largest = 0;
    for (const auto& layer : binding_.layers) largest = std::max(largest, layer[part].rank);
    return largest;
}

// A gradient is formed only if something at or below its place is trained.
Needs Network::needs(std::size_t layer) const {
    using namespace model;  // the parts' names
    const auto trained = [&](std::initializer_list<Part> parts) {
        return std::any_of(parts.begin(), parts.end(),
                           [&](Part part) { return binding_.at(part, layer).trained(); });
    };
    const bool tables = binding_.at(kEmbedding).trained() || binding_.at(kPositions).trained();
    Needs need;
    need.attention_input = layer > binding_.first_trained_layer() || tables || trained({kInputNorm});
    need.qkv = need.attention_input || trained({kQ, kK, kV, kQkv, kQueryNorm, kKeyNorm});
    need.middle = need.qkv || trained({kO});
    need.mlp_input = need.middle || trained({kMlpNorm});
    need.act = need.mlp_input || trained({kGate, kUp});
    return need;
}

Network Network::with_base(model::ModelWeights base) const {
    Network other = *this;
    other.base_ = std::move(base);
    return other;
}

Linear Network::linear(std::size_t layer, Part part, const float* params, float* gradients) const {
    const Slots& slots = binding_.at(part, layer);
    const PartWeights& base = base_.at(part, layer);
    const model::Projection& shape = shapes_[part];
    Linear linear;
    linear.weight = base.weight;
    if (shape.bias) linear.bias = value(slots.bias, base.bias.data(), params);
    linear.bias_gradient = gradient(slots.bias, gradients);
    if (slots.rank != 0) linear.lora = lora_view(slots, shape, params);
    if (slots.rank != 0 && gradients) linear.lora_gradient = lora_gradient_view(slots, shape, gradients);
    if (slots.weight == kAbsent) {
        linear.operands = base.operands;
        linear.integers = base.integers;
        return linear;
    }
    linear.turned = shape.storage == model::Storage::InOut;
    const std::size_t rows = linear.turned ? shape.in : shape.out;
    const std::size_t cols = linear.turned ? shape.out : shape.in;
    linear.weight = {params + slots.weight, WeightType::F32, rows, cols};
    if (gradients) linear.weight_gradient = Matrix(gradients + slots.weight, rows, cols);
    return linear;
}

// A tied head is the embedding table, and adds to its gradient.
Linear Network::head(const float* params, float* gradients) const {
    const Part part = config_.tied_head ? model::kEmbedding : model::kHead;
    Linear linear;
    linear.weight = table(part, params);
    linear.weight_gradient = table_gradient(part, gradients);
    if (binding_.at(part).weight == kAbsent) {
        linear.operands = base_.at(model::kHead).operands;
        linear.integers = base_.at(model::kHead).integers;
    }
    return linear;
}

Norm Network::norm(std::size_t layer, Part part, const float* params, float* gradients) const {
    const Slots& slots = binding_.at(part, layer);
    const PartWeights& base = base_.at(part, layer);
    return {config_.family->norm,
            config_.norm_epsilon,
            value(slots.weight, static_cast<const float*>(base.weight.data), params),
            value(slots.bias, base.bias.data(), params),
            gradient(slots.weight, gradients),
            gradient(slots.bias, gradients)};
}

Norm Network::final_norm(const float* params, float* gradients) const {
    return norm(0, model::kFinalNorm, params, gradients);
}

WeightView Network::table(Part part, const float* params) const {
    const Offset offset = binding_.at(part).weight;
    if (offset == kAbsent) return base_.at(part).weight;
    const std::size_t rows = part == model::kPositions ? config_.context : config_.vocab;
    return {params + offset, WeightType::F32, rows, config_.hidden};
}

Matrix Network::table_gradient(Part part, float* gradients) const {
    const Offset offset = binding_.at(part).weight;
    if (offset == kAbsent || gradients == nullptr) return {};
    const std::size_t rows = part == model::kPositions ? config_.context : config_.vocab;
    return Matrix(gradients + offset, rows, config_.hidden);
}

}  // namespace fedllm::client::engine
