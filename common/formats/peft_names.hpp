// Names of adapter tensors: taken apart, ordered, checked. Shared by the reader and the writer of PEFT
// folders.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.hpp"
#include "common/tensor/lora_spec.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::formats {

struct AdapterName {
    std::string_view module;  // "model.layers.0.self_attn.q_proj", a part of the name it was parsed from
    bool is_a = false;
};

// InvalidFile, or Unsupported for PEFT names that are not plain LoRA on a linear layer.
Result<AdapterName> parse_adapter_name(std::string_view name);

// Sorts by layer number, projection (q, k, v, o, gate, up, down and GPT-2's, then others by name), A before
// B. Names must parse.
void sort_adapter_tensors(std::vector<tensor::TensorSpec>& tensors);

// Whether the base layer keeps its weight as (in, out), which PEFT calls fan_in_fan_out. A and B do not
// differ.
bool is_conv1d(std::string_view module);

// The last parts of the module paths, each once, in the order they come. Names must parse.
std::vector<std::string> module_names(std::span<const tensor::TensorSpec> tensors);

// The whole module paths, each once, in the order they come. Names must parse.
std::vector<std::string> module_paths(std::span<const tensor::TensorSpec> tensors);

// Every A has its B, both have the module's rank in `spec`, every tensor is of a target module and every
// target module occurs.
Result<void> check_adapter(std::span<const tensor::TensorSpec> tensors, const tensor::LoraSpec& spec);

}  // namespace fedllm::formats
