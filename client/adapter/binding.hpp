// Binding: where the trained tensors of a job lie in a ParamSet. The one place that connects names (PEFT's
// and Hugging Face's) with the computation; a step then works with offsets and never looks at a name.
#pragma once

#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include "client/model/manifests.hpp"
#include "client/model/model_config.hpp"
#include "common/base/result.hpp"
#include "common/tensor/lora_spec.hpp"
#include "common/tensor/param_set.hpp"
#include "kernels/lora_matmul/op.hpp"

namespace fedllm::client::adapter {

// Index of the first element in ParamSet::values(), or kAbsent where the tensor is not trained.
using Offset = std::size_t;
inline constexpr Offset kAbsent = std::numeric_limits<Offset>::max();

// Of one part: a linear layer, a norm or a table.
struct Slots {
    Offset weight = kAbsent;
    Offset bias = kAbsent;
    Offset lora_a = kAbsent;
    Offset lora_b = kAbsent;
    std::size_t rank = 0;  // of the adapter; 0: none
    float lora_scale = 1.0F;

    bool trained() const { return weight != kAbsent || bias != kAbsent || rank != 0; }
};

// A tensor found here replaces the base model's; an adapter is added to it. So adapters, whole models and any
// choice of layers take the same path. A tied head has no slots: it is the embedding.
struct Binding : model::ByPart<Slots> {
    std::size_t rank_max = 0;

    bool trained() const;
    // The lowest layer that computes with something trained; layers.size() where none does.
    std::size_t first_trained_layer() const;

    // Every tensor of the manifest must be one this model can train, in the right shape, each A with its B:
    // ManifestMismatch otherwise. Ranks and scales may differ from module to module. An empty manifest
    // binds nothing.
    static Result<Binding> create(const model::ModelConfig& config, const tensor::Manifest& manifest,
                                  const tensor::LoraScales& lora_scales);
};

// Views at one linear layer's adapter; slots.rank must not be 0.
kernels::LoraView lora_view(const Slots& slots, const model::Projection& shape, const float* values);
kernels::LoraGradView lora_gradient_view(const Slots& slots, const model::Projection& shape,
                                         float* gradients);

}  // namespace fedllm::client::adapter
