#include "client/model/weights.hpp"

#include "client/model/manifests.hpp"

namespace fedllm::client::model {
namespace {

using kernels::WeightView;

// Hands out the tensors of full_manifest() one after the other.
class Cursor {
public:
    explicit Cursor(std::span<const WeightView> tensors) : tensors_(tensors) {}

    WeightView matrix() {
        FEDLLM_CHECK(!tensors_.empty(), "a tensor for every place");
        const WeightView view = tensors_.front();
        tensors_ = tensors_.subspan(1);
        return view;
    }
    std::span<const float> vector() {
        const WeightView view = matrix();
        FEDLLM_CHECK(view.type == kernels::WeightType::F32 && view.rows == 1, "vectors are f32");
        return {static_cast<const float*>(view.data), view.cols};
    }
    void linear(const Projection& projection, WeightView& weight, std::span<const float>& bias) {
        weight = matrix();
        if (projection.bias) bias = vector();
    }
    bool at_end() const { return tensors_.empty(); }

private:
    std::span<const WeightView> tensors_;
};

}  // namespace

ModelWeights arrange(const ModelConfig& config, std::span<const WeightView> tensors) {
    const auto linears = projections(config);
    Cursor cursor(tensors);
    ModelWeights weights;
    weights.embedding = cursor.matrix();
    for (std::size_t i = 0; i < config.layers; ++i) {
        LayerWeights layer;
        layer.input_norm = cursor.vector();
        cursor.linear(linears[0], layer.q, layer.q_bias);
        cursor.linear(linears[1], layer.k, layer.k_bias);
        cursor.linear(linears[2], layer.v, layer.v_bias);
        cursor.linear(linears[3], layer.o, layer.o_bias);
        layer.post_attention_norm = cursor.vector();
        cursor.linear(linears[4], layer.gate, layer.gate_bias);
        cursor.linear(linears[5], layer.up, layer.up_bias);
        cursor.linear(linears[6], layer.down, layer.down_bias);
        weights.layers.push_back(layer);
    }
    weights.final_norm = cursor.vector();
    weights.head = config.tied_head ? weights.embedding : cursor.matrix();
    FEDLLM_CHECK(cursor.at_end(), "a place for every tensor");
    return weights;
}

ModelWeights weights_of(const ModelConfig& config, const tensor::ParamSet& parameters) {
    FEDLLM_CHECK(parameters.manifest() == full_manifest(config), "the parameters of this model");
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
