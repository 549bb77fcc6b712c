// The weights of a model as views, wherever they lie: a mapped file (BaseModel) or a ParamSet in training.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "client/model/manifests.hpp"
#include "client/model/model_config.hpp"
#include "common/tensor/param_set.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {
struct Int8Weight;  // kernels/int8_matmul
}

namespace fedllm::client::model {

// Matrices of linear layers are (out, in) whatever the file's order; norms have one row. An empty bias means
// none.
struct PartWeights {
    kernels::WeightView weight;
    std::span<const float> bias;
    kernels::Operands operands = kernels::Operands::F32;  // of products with the frozen weight
    const kernels::Int8Weight* integers =
        nullptr;  // what products read instead, where the job computes with integers
};
using ModelWeights = ByPart<PartWeights>;  // a tied head is the embedding table

// Puts the tensors of model_tensors(config), in its order, in their places; vectors are f32 with one row.
ModelWeights arrange(const ModelConfig& config, std::span<const kernels::WeightView> tensors);

// Views into a whole model; `parameters` must have full_manifest(config), be of a family whose files are
// (out, in), and outlive the views.
ModelWeights weights_of(const ModelConfig& config, const tensor::ParamSet& parameters);

}  // namespace fedllm::client::model
