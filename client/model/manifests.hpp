// From a ModelConfig alone: which tensors the model has, which an adapter adds, and how both start.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "client/model/model_config.hpp"
#include "common/base/result.hpp"
#include "common/tensor/lora_spec.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::client::model {

// One tensor of a model and what it is. Shapes are those of the file: a Conv1D weight is [in, out].
struct ModelTensor {
    Part part = kEmbedding;
    std::size_t layer = 0;  // where the part is in layers
    bool is_bias = false;
    bool or_zero = false;  // a file may lack it: zeros
    tensor::TensorSpec spec;
};

// Every tensor in Hugging Face's names, in the order used everywhere: the embedding tables; layer by layer
// what the family lists, each weight before its bias; final norm; the head unless it is tied.
std::vector<ModelTensor> model_tensors(const ModelConfig& config);
tensor::Manifest full_manifest(const ModelConfig& config);  // the same, as what is trained

// The linear layers of a block, those that may get an adapter, in the family's order.
struct Projection {
    Part part = kQ;
    std::string_view name;  // "q_proj", as in LoraSpec::target_modules; two may share one ("c_proj")
    std::string_view path;  // "self_attn.q_proj", within the block
    std::size_t out = 0;
    std::size_t in = 0;
    bool bias = false;
    Storage storage = Storage::OutIn;  // in files and as trained parameters
};
std::vector<Projection> projections(const ModelConfig& config);

// "model.layers.3.self_attn.q_proj": Hugging Face's names, used in files, manifests and lookups.
std::string layer_name(const ModelConfig& config, std::size_t layer, std::string_view rest);

// PEFT's names; by layer, then in the order of projections(), A [rank, in] before B [out, rank]. Target
// modules may come in any order; an unknown or repeated one and a rank of 0 are InvalidArgument.
Result<tensor::Manifest> lora_manifest(const ModelConfig& config, const tensor::LoraSpec& spec);

// A ~ U(-1/sqrt(in), 1/sqrt(in)) as PEFT does, from the stream of the tensor's name; B = 0, so the model
// starts unchanged. Expects the names of lora_manifest().
tensor::ParamSet initial_lora(const tensor::Manifest& manifest, std::uint64_t seed);

// Matrices normal(0, 0.02), those that write to the residual stream (o, down) scaled by 1/sqrt(2 layers)
// (GPT-2's initialisation); norms one; biases zero.
tensor::ParamSet initial_full(const ModelConfig& config, std::uint64_t seed);

}  // namespace fedllm::client::model
