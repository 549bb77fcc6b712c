// The shape of a decoder of the Llama family, read from a Hugging Face config.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::client::model {

struct ModelConfig {
    std::string model_type = "llama";
    std::size_t hidden = 0;  // C
    std::size_t layers = 0;
    std::size_t heads = 0;         // H, query heads
    std::size_t kv_heads = 0;      // heads of keys and values; divides heads
    std::size_t head_size = 0;     // D, even; heads * head_size need not be hidden
    std::size_t intermediate = 0;  // width of the feed-forward part
    std::size_t vocab = 0;         // V
    std::size_t context = 0;       // longest sequence the model was made for
    float norm_epsilon = 1e-6F;
    double rope_theta = 10000;
    bool tied_head = false;       // the output head is the embedding table
    bool attention_bias = false;  // biases on q, k, v and o
    bool mlp_bias = false;        // biases on gate, up and down
    std::optional<std::int32_t> bos;
    std::optional<std::int32_t> eos;  // the first, where the file lists several

    std::size_t query_width() const { return heads * head_size; }
    std::size_t key_width() const { return kv_heads * head_size; }
    bool operator==(const ModelConfig&) const = default;
};

// Reads folder/config.json. Unsupported or InvalidModel name the file, the field and what is supported:
// another architecture, scaled RoPE, an activation other than SiLU, a quantisation other than bitsandbytes',
// sliding windows, sizes that do not fit.
Result<ModelConfig> read_model_config(const Path& folder);

// The same from text; `source` names it in errors.
Result<ModelConfig> parse_model_config(std::string_view json, std::string_view source);

// A config.json that transformers and parse_model_config() read; weights_dtype as in "float32" or "bfloat16".
std::string model_config_json(const ModelConfig& config, std::string_view weights_dtype);

}  // namespace fedllm::client::model
