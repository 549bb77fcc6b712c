// The shape of a decoder of one of the families, read from a Hugging Face config.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "client/model/family.hpp"
#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::client::model {

// How RoPE's frequencies are stretched for texts longer than those of the first training.
struct RopeScaling {
    enum class Kind { None, Linear, Llama3 };
    Kind kind = Kind::None;
    double factor = 1;
    double low_frequency_factor = 1;  // of Llama3, as the next two
    double high_frequency_factor = 4;
    std::size_t original_context = 0;
    bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
    const Family* family = &llama();
    std::size_t hidden = 0;  // C
    std::size_t layers = 0;
    std::size_t heads = 0;         // H, query heads
    std::size_t kv_heads = 0;      // heads of keys and values; divides heads
    std::size_t head_size = 0;     // D, even where RoPE turns it; heads * head_size need not be hidden
    std::size_t intermediate = 0;  // width of the feed-forward part
    std::size_t vocab = 0;         // V
    std::size_t context = 0;       // longest sequence the model was made for
    float norm_epsilon = 1e-6F;
    double rope_theta = 10000;
    RopeScaling rope_scaling{};
    std::size_t window = 0;       // how many keys a token sees at most, itself included; 0: all before it
    std::size_t window_from = 0;  // the first layer with the window
    bool tied_head = false;       // the output head is the embedding table
    bool attention_bias = false;  // biases on q, k, v and o, where the family leaves it to the file
    bool mlp_bias = false;        // biases on gate, up and down, likewise
    std::optional<std::int32_t> bos;
    std::optional<std::int32_t> eos;  // the first, where the file lists several

    std::size_t query_width() const { return heads * head_size; }
    std::size_t key_width() const { return kv_heads * head_size; }
    std::size_t window_of(std::size_t layer) const { return layer >= window_from ? window : 0; }
    bool operator==(const ModelConfig&) const = default;
};

// Reads folder/config.json. Unsupported or InvalidModel name the file, the field and what is supported:
// another architecture, another scaling of RoPE or activation, a quantisation other than bitsandbytes', sizes that do
// not fit.
Result<ModelConfig> read_model_config(const Path& folder);

// The same from text; `source` names it in errors.
Result<ModelConfig> parse_model_config(std::string_view json, std::string_view source);

// A config.json that transformers and parse_model_config() read; weights_dtype as in "float32" or "bfloat16".
std::string model_config_json(const ModelConfig& config, std::string_view weights_dtype);

}  // namespace fedllm::client::model
