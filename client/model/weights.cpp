#include "client/model/weights.hpp"

namespace fedllm::client::model {
namespace {

using kernels::WeightView;

std::span<const float> vector(const WeightView& view) {
    FEDLLM_CHECK(view.type == kernels::WeightType::F32 && view.rows == 1, "vectors are f32");
    return {static_cast<const float*>(view.data), view.cols};
}

}  // namespace

ModelWeights arrange(const ModelConfig& config, std::span<const WeightView> tensors) {
    const std::vector<ModelTensor> places = model_tensors(config);
    FEDLLM_CHECK(tensors.size() == places.size(), "a tensor for every place");
    ModelWeights weights;
    weights.layers.resize(config.layers);
    for (std::size_t i = 0; i < places.size(); ++i) {
        PartWeights& part = weights.at(places[i].part, places[i].layer);
        if (places[i].is_bias) {
            part.bias = vector(tensors[i]);
        } else {
            part.weight = tensors[i];
        }
    }
    if (config.tied_head) weights.at(kHead) = weights.at(kEmbedding);
    return weights;
}

ModelWeights weights_of(const ModelConfig& config, const tensor::ParamSet& parameters) {
    FEDLLM_CHECK(parameters.manifest() == full_manifest(config), "the parameters of this model");
    FEDLLM_CHECK(config.family->storage == Storage::OutIn, "weights as the kernels read them");
    std::vector<WeightView> views;
    const auto tensors = parameters.manifest().tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const auto& shape = tensors[i].shape;
        const std::size_t rows = shape.size() == 2 ? shape[0] : 1;
        views.push_back({parameters.tensor(i).data(), kernels::WeightType::F32, rows, shape.back()});
    }
    return arrange(config, views);
}

}  // namespace fedllm::client::model
