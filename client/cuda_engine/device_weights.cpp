#include "client/cuda_engine/device_weights.hpp"

namespace fedllm::client::cuda_engine {
namespace {

using engine::Network;
using kernels::WeightType;
using kernels::WeightView;
using model::ModelTensor;

bool is_frozen(const Network& network, const ModelTensor& tensor) {
    const adapter::Slots& slots = network.binding().at(tensor.part, tensor.layer);
    return (tensor.is_bias ? slots.bias : slots.weight) == adapter::kAbsent;
}
bool is_table(const ModelTensor& tensor) {
    return tensor.part == model::kEmbedding || tensor.part == model::kPositions ||
           tensor.part == model::kHead;
}

// A table that may be the head's panel: rows beyond the vocabulary are zero.
WeightView table(const WeightView& host, Carver& carver) {
    const std::size_t rows = round_up(host.rows, 8);
    return {carver.take<BF16>(rows * host.cols), WeightType::BF16, host.rows, host.cols};
}
WeightView packed(const WeightView& host, Carver& carver) {
    WeightView view = host;
    view.data = carver.take<unsigned char>(code_bytes(host));
    if (!is_plain(host)) view.scales = carver.take<float>(scale_count(host));
    return view;
}

}  // namespace

DeviceWeights::DeviceWeights(const Network& host, LinearWeights linear, Transfer& transfer) {
    memory_ = kernels::cuda::DeviceBuffer<unsigned char>(bytes(host, linear));
    Carver place(memory_.data());
    lay_out(host, linear, place);
    transfer.clear(memory_.data(), memory_.bytes());
    fill(host, transfer);
}

std::size_t DeviceWeights::bytes(const Network& host, LinearWeights linear) {
    DeviceWeights measured;
    Carver measure;
    measured.lay_out(host, linear, measure);
    return measure.used();
}

void DeviceWeights::lay_out(const Network& host, LinearWeights linear, Carver& carver) {
    views_ = {};
    views_.layers.resize(host.config().layers);
    for (const ModelTensor& tensor : model::model_tensors(host.config())) {
        if (!is_frozen(host, tensor)) continue;
        const model::PartWeights& from = host.base().at(tensor.part, tensor.layer);
        model::PartWeights& to = views_.at(tensor.part, tensor.layer);
        if (tensor.is_bias) {
            to.bias = {carver.take<float>(from.bias.size()), from.bias.size()};
        } else if (is_table(tensor)) {
            to.weight = table(from.weight, carver);
        } else if (model::is_norm(tensor.part)) {
            to.weight = packed(from.weight, carver);
        } else if (linear == LinearWeights::Packed) {
            to.weight = packed(from.weight, carver);
        }
    }
    if (host.config().tied_head) views_.at(model::kHead) = views_.at(model::kEmbedding);
}

void DeviceWeights::fill(const Network& host, Transfer& transfer) {
    const auto copy = [&](const void* to, const void* from, std::size_t bytes) {
        transfer.to_device(const_cast<void*>(to), from, bytes);
    };
    for (const ModelTensor& tensor : model::model_tensors(host.config())) {
        const model::PartWeights& from = host.base().at(tensor.part, tensor.layer);
        const model::PartWeights& to = views_.at(tensor.part, tensor.layer);
        if (!is_frozen(host, tensor)) continue;
        if (tensor.is_bias) {
            copy(to.bias.data(), from.bias.data(), from.bias.size_bytes());
        } else if (is_table(tensor)) {
            auto* const data = static_cast<BF16*>(const_cast<void*>(to.weight.data));
            transfer.widen(from.weight, DeviceMatrix(data, to.weight.rows, to.weight.cols));
        } else if (to.weight.data != nullptr) {
            copy(to.weight.data, from.weight.data, code_bytes(from.weight));
            if (!is_plain(from.weight))
                copy(to.weight.scales, from.weight.scales, scale_count(from.weight) * sizeof(float));
        }
    }
}

}  // namespace fedllm::client::cuda_engine
