// Network: what is computed with. A model's shape, its frozen weights, and what of it is trained.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "client/adapter/binding.hpp"
#include "client/model/weights.hpp"

namespace fedllm::client::engine {

using model::Part;

// One linear layer at one step's parameters: y = x weight^T (+ bias) (+ scale (x a^T) b^T). Gradient pointers
// are null where nothing is trained.
struct Linear {
    kernels::WeightView weight;
    kernels::Operands operands = kernels::Operands::F32;  // of products with a frozen weight
    const kernels::Int8Weight* integers = nullptr;  // a frozen weight's other form, computed with instead
    const float* bias = nullptr;
    kernels::LoraView lora;  // lora.a.data is null without an adapter
    kernels::Matrix weight_gradient;
    float* bias_gradient = nullptr;
    kernels::LoraGradView lora_gradient;
    bool turned = false;  // weight and its gradient are (in, out), as Conv1D keeps them

    bool has_lora() const { return lora.a.data != nullptr; }
};

struct Norm {
    model::NormKind kind = model::NormKind::Rms;
    float epsilon = 0;
    const float* weight = nullptr;
    const float* bias = nullptr;       // null: none
    float* weight_gradient = nullptr;  // null: not trained, as the next
    float* bias_gradient = nullptr;
};

// A linear layer that fills some columns of a buffer which several share.
struct Columns {
    Part part = model::kQ;
    std::size_t first = 0;
    std::size_t width = 0;
};

// How far down a layer's backward pass must go.
struct Needs {
    bool act = false, mlp_input = false, middle = false, qkv = false, attention_input = false;
};

// Lifecycle: a value; the views in `base` point at memory that must outlive it.
// Concurrency: immutable after create().
class Network {
public:
    // `manifest` lists what is trained (may be empty). Weights that it replaces need not be in `base`, which
    // for full-parameter training may be empty. Errors: ManifestMismatch, InvalidModel, Unsupported.
    static Result<Network> create(const model::ModelConfig& config, const model::ModelWeights& base,
                                  const tensor::Manifest& manifest,
                                  const tensor::LoraScales& lora_scales = 1.0);

    const model::ModelConfig& config() const { return config_; }
    const adapter::Binding& binding() const { return binding_; }
    std::size_t parameters() const { return parameters_; }  // elements a ParamSet must have
    bool has(Part part) const { return config_.family->has(part); }

    // The layers that read the normed stream: q, k and v side by side in (M, H*D + 2*KV*D), however many
    // products make them.
    std::span<const Columns> qkv() const { return qkv_; }
    // The largest rank of the adapters on this part; 0 without.
    std::size_t rank(Part part) const;

    Needs needs(std::size_t layer) const;

    // The same computation with copies of the frozen weights, in a GPU's memory for example: `params` and
    // `gradients` are then there, too.
    Network with_base(model::ModelWeights base) const;
    const model::ModelWeights& base() const { return base_; }
    const model::Projection& shape(Part part) const { return shapes_[part]; }  // of a linear part

    // Views at `params` and, unless null, `gradients`.
    Linear linear(std::size_t layer, Part part, const float* params, float* gradients) const;
    Linear head(const float* params, float* gradients) const;
    Norm norm(std::size_t layer, Part part, const float* params, float* gradients) const;
    Norm final_norm(const float* params, float* gradients) const;
    kernels::WeightView table(Part part, const float* params) const;    // kEmbedding or kPositions
    kernels::Matrix table_gradient(Part part, float* gradients) const;  // data null: not trained

private:
    Result<void> check() const;

    model::ModelConfig config_;
    model::ModelWeights base_;
    adapter::Binding binding_;
    std::array<model::Projection, model::kParts> shapes_;  // of linear parts
    std::vector<Columns> qkv_;
    std::size_t parameters_ = 0;
};

}  // namespace fedllm::client::engine
