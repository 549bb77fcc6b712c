// Network: what is computed with. A model's shape, its frozen weights, and what of it is trained.
#pragma once

#include <array>
#include <cstddef>

#include "client/adapter/binding.hpp"
#include "client/model/weights.hpp"

namespace fedllm::client::engine {

// Positions in model::projections().
enum Part : std::size_t { kQ, kK, kV, kO, kGate, kUp, kDown };

// One linear layer at one step's parameters: y = x weight^T (+ bias) (+ scale (x a^T) b^T). Gradient pointers
// are null where nothing is trained.
struct Linear {
    kernels::WeightView weight;
    const float* bias = nullptr;
    kernels::LoraView lora;  // lora.a.data is null without an adapter
    kernels::Matrix weight_gradient;
    float* bias_gradient = nullptr;
    kernels::LoraGradView lora_gradient;

    bool has_lora() const { return lora.a.data != nullptr; }
};

// A norm's weight with its gradient, or a table's (embedding, head).
struct Gain {
    const float* weight = nullptr;
    float* gradient = nullptr;
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
    const model::Projection& shape(Part part) const { return shapes_[part]; }
    std::size_t parameters() const { return parameters_; }  // elements a ParamSet must have

    // Views at `params` and, unless null, `gradients`.
    Linear linear(std::size_t layer, Part part, const float* params, float* gradients) const;
    Linear head(const float* params, float* gradients) const;
    kernels::WeightView embedding(const float* params) const;
    kernels::Matrix embedding_gradient(float* gradients) const;  // data null: not trained
    Gain input_norm(std::size_t layer, const float* params, float* gradients) const;
    Gain post_attention_norm(std::size_t layer, const float* params, float* gradients) const;
    Gain final_norm(const float* params, float* gradients) const;

private:
    Result<void> check() const;

    model::ModelConfig config_;
    model::ModelWeights base_;
    adapter::Binding binding_;
    std::array<model::Projection, model::kProjections> shapes_;
    std::size_t parameters_ = 0;
};

// y = linear(x); s (M,R) keeps x a^T for the backward pass.
void linear_forward(kernels::ThreadPool& pool, const Linear& linear, kernels::ConstMatrix x,
                    kernels::Matrix s, kernels::Matrix y);

// Gradients of whatever is trained are accumulated; dx (data null: not wanted) is written. ds (M,R) is
// scratch.
void linear_backward(kernels::ThreadPool& pool, const Linear& linear, kernels::ConstMatrix dy,
                     kernels::ConstMatrix x, kernels::ConstMatrix s, kernels::Matrix ds, kernels::Matrix dx,
                     kernels::Write dx_write = kernels::Write::Overwrite);

}  // namespace fedllm::client::engine
