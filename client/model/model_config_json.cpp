#include <charconv>

#include "client/model/model_config.hpp"
#include "client/model/rope_fields.hpp"

namespace fedllm::client::model {
namespace {

using Object = nlohmann::ordered_json;

// The shortest decimal that reads back as the same float, as a double: 1e-06 and not 9.99999997e-07.
double shortest(float value) {
    char text[32];
    const auto written = std::to_chars(text, text + sizeof text, value);
    double result = 0;
    std::from_chars(text, written.ptr, result);
    return result;
}

void add_window(Object& json, const ModelConfig& config) {
    if (config.family->window == Window::None) return;
    json["sliding_window"] = config.window == 0 ? Object(nullptr) : Object(config.window);
    if (config.family->window != Window::FromLayer) return;
    json["use_sliding_window"] = config.window != 0;
    json["max_window_layers"] = config.window == 0 ? config.layers : config.window_from;
}

}  // namespace

std::string model_config_json(const ModelConfig& config, std::string_view weights_dtype) {
    const auto token = [](std::optional<std::int32_t> id) { return id ? Json(*id) : Json(nullptr); };
    const Family& family = *config.family;
    const ConfigKeys& keys = family.keys;
    Object json;
    json["architectures"] = {family.architecture};
    json["model_type"] = family.model_type;
    json["vocab_size"] = config.vocab;
    json[keys.hidden] = config.hidden;
    json[keys.intermediate] = config.intermediate;
    json[keys.layers] = config.layers;
    json[keys.heads] = config.heads;
    if (keys.kv_heads) json[keys.kv_heads] = config.kv_heads;
    if (keys.head_size) json[keys.head_size] = config.head_size;
    json[keys.activation] = family.activations.front();
    json[keys.context] = config.context;
    json[keys.epsilon] = shortest(config.norm_epsilon);
    if (family.positions == Positions::Rotary) {
        json["rope_theta"] = config.rope_theta;
        json["rope_scaling"] = rope_scaling_json(config.rope_scaling);
    }
    json["tie_word_embeddings"] = config.tied_head;
    if (family.leaves(Bias::Attention)) json["attention_bias"] = config.attention_bias;
    if (family.leaves(Bias::Mlp)) json["mlp_bias"] = config.mlp_bias;
    add_window(json, config);
    json["bos_token_id"] = token(config.bos);
    json["eos_token_id"] = token(config.eos);
    json["torch_dtype"] = weights_dtype;
    return json.dump(2) + "\n";
}

}  // namespace fedllm::client::model
