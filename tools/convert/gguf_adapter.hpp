// An adapter as llama.cpp and its family load it beside a base model: GGUF.
#pragma once

#include <string>

#include "client/model/model_config.hpp"
#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "common/formats/gguf_writer.hpp"
#include "common/formats/peft.hpp"

namespace fedllm::tools::convert {

// Names and layout are those of llama.cpp's convert_lora_to_gguf.py. Its loader multiplies by alpha / rank,
// one alpha for all: rsLoRA's sqrt(rank) goes into alpha, and what a module's own alpha or rank leaves over
// into its lora_b. For architecture "llama" the rows of q's and k's lora_b are permuted to the order in which
// llama.cpp rotates them.
// Unsupported for a model type or a module that has no GGUF name; NotFinite where f16 cannot hold a value.
Result<void> write_gguf_adapter(const Path& path, const formats::LoadedAdapter& adapter,
                                const client::model::ModelConfig& config, formats::GgufType type);

}  // namespace fedllm::tools::convert
