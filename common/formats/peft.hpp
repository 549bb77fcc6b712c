// A LoRA adapter as the PEFT library keeps it: a folder with adapter_config.json and
// adapter_model.safetensors.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "common/tensor/lora_spec.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::formats {

struct LoadedAdapter {
    tensor::ParamSet parameters;
    tensor::LoraSpec spec;
    std::string base_model;  // base_model_name_or_path, "" where the file has none
};

// Writes F32 tensors under the names of the ParamSet, which are PEFT's in full:
// "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" [rank, in] and "...lora_B.weight" [out,
// rank]. ManifestMismatch if names, ranks or target modules do not fit `spec`. Each file is replaced
// atomically.
Result<void> write_peft_adapter(const Path& folder, const tensor::ParamSet& parameters,
                                const tensor::LoraSpec& spec, std::string_view base_model_name);

// The same with the weights as the bytes of a safetensors file that holds them already, so that they need not
// be read into memory.
Result<void> write_peft_adapter(const Path& folder, const tensor::Manifest& manifest,
                                std::span<const std::byte> weights, const tensor::LoraSpec& spec,
                                std::string_view base_model_name);

// Reads F32, F16 and BF16 adapters. Tensors come by layer number, then q, k, v, o, gate, up, down (others
// after them by name), A before B, whatever their order in the file. "all-linear" becomes the names of the
// modules found; a regular expression, or a choice of layers, their whole paths. rank_pattern and
// alpha_pattern become LoraSpec::modules, and are written back from there. What goes beyond plain LoRA (DoRA,
// trained biases, saved modules, LoRA on embeddings, ...) is Unsupported, naming the key.
Result<LoadedAdapter> read_peft_adapter(const Path& folder);

}  // namespace fedllm::formats
