// From a ModelConfig alone: which tensors the model has, which an adapter adds, and how both start.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "client/model/model_config.hpp"
#include "common/base/result.hpp"
#include "common/tensor/lora_spec.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::client::model {

// The seven linear layers of a block, in the order used everywhere: q, k, v, o, gate, up, down.
struct Projection {
    std::string_view name;  // "q_proj", as in LoraSpec::target_modules
    std::string_view path;  // "self_attn.q_proj", within the block
    std::size_t out = 0;
    std::size_t in = 0;
    bool bias = false;
};
constexpr std::size_t kProjections = 7;
std::array<Projection, kProjections> projections(const ModelConfig& config);

// "model.layers.3.self_attn.q_proj.weight": Hugging Face's names, used in files, manifests and lookups.
std::string layer_name(std::size_t layer, std::string_view rest);

// Every trainable tensor of the model in Hugging Face's names: the embedding; per block the input norm, q, k,
// v, o (each weight, then bias if any), post-attention norm, gate, up, down; final norm; lm_head unless tied.
tensor::Manifest full_manifest(const ModelConfig& config);

// PEFT's names; by layer, then q, k, v, o, gate, up, down, A [rank, in] before B [out, rank]. Target modules
// may come in any order; an unknown or repeated one and a rank of 0 are InvalidArgument.
Result<tensor::Manifest> lora_manifest(const ModelConfig& config, const tensor::LoraSpec& spec);

// A ~ U(-1/sqrt(in), 1/sqrt(in)) as PEFT does, from the stream of the tensor's name; B = 0, so the model
// starts unchanged. Expects the names of lora_manifest().
tensor::ParamSet initial_lora(const tensor::Manifest& manifest, std::uint64_t seed);

// Matrices normal(0, 0.02), those that write to the residual stream (o, down) scaled by 1/sqrt(2 layers)
// (GPT-2's initialisation); norms one; biases zero.
tensor::ParamSet initial_full(const ModelConfig& config, std::uint64_t seed);

}  // namespace fedllm::client::model
