// The weights of a model as views, wherever they lie: a mapped file (BaseModel) or a ParamSet in training.
#pragma once

#include <span>
#include <vector>

#include "client/model/model_config.hpp"
#include "common/tensor/param_set.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::client::model {

// Weights are (out, in), of any WeightType. An empty bias span means none.
struct LayerWeights {
    kernels::WeightView q, k, v, o, gate, up, down;
    std::span<const float> q_bias, k_bias, v_bias, o_bias, gate_bias, up_bias, down_bias;
    std::span<const float> input_norm, post_attention_norm;  // (C)
};

struct ModelWeights {
    kernels::WeightView embedding;  // (V,C)
    kernels::WeightView head;       // (V,C); the same as embedding when tied
    std::span<const float> final_norm;
    std::vector<LayerWeights> layers;
};

// Puts the tensors of full_manifest(config), in its order, in their places; vectors are f32 with one row.
ModelWeights arrange(const ModelConfig& config, std::span<const kernels::WeightView> tensors);

// Views into a whole model under training; `parameters` must have full_manifest(config) and outlive the
// views.
ModelWeights weights_of(const ModelConfig& config, const tensor::ParamSet& parameters);

}  // namespace fedllm::client::model
