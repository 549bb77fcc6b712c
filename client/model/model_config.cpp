#include "client/model/model_config.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "common/formats/json.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::client::model {
namespace {

using Json = nlohmann::json;
using formats::in_quotes;

// Reads one field at a time; every error names the file and the field.
class Fields {
public:
    Fields(const Json& object, std::string source) : object_(object), source_(std::move(source)) {}

    Error error(Errc code, std::string_view key, const std::string& what) const {
        return make_error(code, source_ + ": '" + std::string(key) + "' " + what);
    }
    // Null and absent are the same, as they are to transformers for every field read here but the noted ones.
    const Json* find(const char* key) const {
        const auto found = object_.find(key);
        return found == object_.end() || found->is_null() ? nullptr : &*found;
    }
    bool has_key(const char* key) const { return object_.contains(key); }

    Result<std::size_t> size(const char* key, std::size_t max,
                             std::optional<std::size_t> otherwise = {}) const {
        const Json* value = find(key);
        if (!value && otherwise) return *otherwise;
        if (!value) return error(Errc::InvalidModel, key, "is missing");
        const bool fits = value->is_number_unsigned() && value->get<std::uint64_t>() >= 1 &&
                          value->get<std::uint64_t>() <= max;
        if (fits) return value->get<std::size_t>();
        return error(Errc::InvalidModel, key, "must be a whole number from 1 to " + std::to_string(max));
    }
    Result<double> number(const char* key, double low, double high, double otherwise) const {
        const Json* value = find(key);
        if (!value) return otherwise;
        if (value->is_number() && value->get<double>() >= low && value->get<double>() <= high) {
            return value->get<double>();
        }
        return error(Errc::InvalidModel, key,
                     "must be a number from " + Json(low).dump() + " to " + Json(high).dump());
    }
    Result<bool> flag(const char* key) const {  // absent: false
        const Json* value = find(key);
        if (!value) return false;
        if (value->is_boolean()) return value->get<bool>();
        return error(Errc::InvalidModel, key, "must be true or false");
    }
    // A token id, or the first of a list; absent: `otherwise`; null: none.
    Result<std::optional<std::int32_t>> token(const char* key, std::size_t vocab,
                                              std::int32_t otherwise) const {
        if (!has_key(key)) return std::optional<std::int32_t>(otherwise);
        const Json* value = find(key);
        if (value && value->is_array()) value = value->empty() ? nullptr : &value->front();
        if (!value) return std::optional<std::int32_t>();
        if (value->is_number_unsigned() && value->get<std::uint64_t>() < vocab) {
            return std::optional<std::int32_t>(value->get<std::int32_t>());
        }
        return error(Errc::InvalidModel, key, "must be a token id below vocab_size, or a list of them");
    }

private:
    const Json& object_;
    std::string source_;
};

Result<void> check_architecture(const Fields& fields, ModelConfig& config) {
    const Json* type = fields.find("model_type");
    if (!type || !type->is_string()) return fields.error(Errc::InvalidModel, "model_type", "is missing");
    config.model_type = type->get<std::string>();
    if (config.model_type != "llama" && config.model_type != "mistral") {
        return fields.error(Errc::Unsupported, "model_type",
                            "is " + in_quotes(config.model_type) + "; supported are 'llama' and 'mistral'");
    }
    const std::string wanted = config.model_type == "llama" ? "LlamaForCausalLM" : "MistralForCausalLM";
    const Json* list = fields.find("architectures");
    const auto is_wanted = [&](const Json& item) {
        return item.is_string() && item.get<std::string>() == wanted;
    };
    if (list && !(list->is_array() && std::any_of(list->begin(), list->end(), is_wanted))) {
        return fields.error(Errc::Unsupported, "architectures", "must list " + wanted);
    }
    return {};
}

// What would change the computation in ways the engine does not follow.
Result<void> check_features(const Fields& fields, const ModelConfig& config) {
    const Json* activation = fields.find("hidden_act");
    if (activation && *activation != "silu") {
        return fields.error(Errc::Unsupported, "hidden_act", "is not 'silu', the only activation supported");
    }
    if (const Json* quantization = fields.find("quantization_config")) {
        const auto method =
            quantization->is_object() ? quantization->value("quant_method", Json("none")) : *quantization;
        if (method != "bitsandbytes") {
            return fields.error(
                Errc::Unsupported, "quantization_config",
                "has quant_method " + in_quotes(method.dump()) +
                    "; supported is 'bitsandbytes' (NF4, FP4 and LLM.int8); for others use the f32, "
                    "f16 or bf16 model");
        }
    }
    // MistralConfig has a window unless the file says null.
    if (fields.find("sliding_window") ||
        (config.model_type == "mistral" && !fields.has_key("sliding_window"))) {
        return fields.error(Errc::Unsupported, "sliding_window",
                            "must be null: attention over a sliding window is not supported");
    }
    return {};
}

// `rope_scaling` (to transformers 4) or `rope_parameters` (from 5): only plain RoPE over whole heads.
Result<void> check_rope(const Fields& fields, const char* key, const Json& rope) {
    if (!rope.is_object()) return fields.error(Errc::InvalidModel, key, "must be an object or null");
    for (const char* type_key : {"rope_type", "type"}) {
        const auto type = rope.find(type_key);
        if (type != rope.end() && *type != "default") {
            return fields.error(
                Errc::Unsupported, key,
                "asks for " + in_quotes(type->dump()) + "; only null or 'default' RoPE is supported");
        }
    }
    return {};
}

Result<double> read_rope_theta(const Fields& fields, const std::string& source) {
    constexpr double kThetaMax = 1e12;
    FEDLLM_TRY(double theta, fields.number("rope_theta", 1.0, kThetaMax, 10000.0));
    for (const char* key : {"rope_scaling", "rope_parameters"}) {
        const Json* rope = fields.find(key);
        if (!rope) continue;
        FEDLLM_TRY_VOID(check_rope(fields, key, *rope));
        const Fields inner(*rope, source + ": '" + key + "'");
        FEDLLM_TRY(theta, inner.number("rope_theta", 1.0, kThetaMax, theta));
        FEDLLM_TRY(const double part, inner.number("partial_rotary_factor", 0.0, 1.0, 1.0));
        if (part != 1.0) return inner.error(Errc::Unsupported, "partial_rotary_factor", "must be 1");
    }
    FEDLLM_TRY(const double part, fields.number("partial_rotary_factor", 0.0, 1.0, 1.0));
    if (part != 1.0) return fields.error(Errc::Unsupported, "partial_rotary_factor", "must be 1");
    return theta;
}

Result<void> read_sizes(const Fields& fields, ModelConfig& config) {
    const bool llama = config.model_type == "llama";
    FEDLLM_TRY(config.hidden, fields.size("hidden_size", 1 << 16));
    FEDLLM_TRY(config.layers, fields.size("num_hidden_layers", 1 << 10));
    FEDLLM_TRY(config.heads, fields.size("num_attention_heads", 1 << 10));
    const auto kv_otherwise = llama ? config.heads : std::size_t{8};
    FEDLLM_TRY(config.kv_heads, fields.size("num_key_value_heads", 1 << 10, kv_otherwise));
    FEDLLM_TRY(config.intermediate, fields.size("intermediate_size", 1 << 20));
    FEDLLM_TRY(config.vocab, fields.size("vocab_size", 1 << 24));
    FEDLLM_TRY(config.context, fields.size("max_position_embeddings", 1 << 27, llama ? 2048 : 131072));
    if (config.heads % config.kv_heads != 0) {
        return fields.error(Errc::InvalidModel, "num_attention_heads",
                            "(" + std::to_string(config.heads) +
                                ") must be a multiple of num_key_value_heads (" +
                                std::to_string(config.kv_heads) + ")");
    }
    if (!fields.find("head_dim") && config.hidden % config.heads != 0) {
        return fields.error(Errc::InvalidModel, "hidden_size",
                            "must be a multiple of num_attention_heads where head_dim is not given");
    }
    FEDLLM_TRY(config.head_size, fields.size("head_dim", 1 << 10, config.hidden / config.heads));
    if (config.head_size % 2 != 0) {
        return fields.error(Errc::InvalidModel, "head_dim",
                            "(" + std::to_string(config.head_size) + ") must be even: RoPE turns pairs");
    }
    return {};
}

// The bounds of read_sizes keep this far from overflow.
std::uint64_t elements(const ModelConfig& config) {
    const std::uint64_t attention = 2 * config.hidden * (config.query_width() + config.key_width());
    const std::uint64_t block = attention + 3 * config.hidden * config.intermediate +
                                2 * config.intermediate + 8 * config.hidden + config.query_width() +
                                2 * config.key_width();
    return config.layers * block + 2 * config.vocab * config.hidden + config.hidden;
}

// The shortest decimal that reads back as the same float, as a double: 1e-06 and not 9.99999997e-07.
double shortest(float value) {
    char text[32];
    const auto written = std::to_chars(text, text + sizeof text, value);
    double result = 0;
    std::from_chars(text, written.ptr, result);
    return result;
}

}  // namespace

Result<ModelConfig> parse_model_config(std::string_view json, std::string_view source) {
    FEDLLM_TRY(const Json object, formats::parse_json(json, source));
    if (!object.is_object()) {
        return make_error(Errc::InvalidModel, std::string(source) + ": expected a JSON object");
    }
    const Fields fields(object, std::string(source));
    ModelConfig config;
    FEDLLM_TRY_VOID(check_architecture(fields, config));
    FEDLLM_TRY_VOID(check_features(fields, config));
    FEDLLM_TRY_VOID(read_sizes(fields, config));
    if (elements(config) > tensor::Manifest::kElementsMax) {
        return make_error(Errc::InvalidModel,
                          std::string(source) + ": its sizes make more than 2^40 parameters");
    }
    FEDLLM_TRY(const double epsilon, fields.number("rms_norm_eps", 1e-12, 1.0, 1e-6));
    config.norm_epsilon = static_cast<float>(epsilon);
    FEDLLM_TRY(config.rope_theta, read_rope_theta(fields, std::string(source)));
    FEDLLM_TRY(config.tied_head, fields.flag("tie_word_embeddings"));
    if (config.model_type == "llama") {  // Mistral has no biases whatever its file says
        FEDLLM_TRY(config.attention_bias, fields.flag("attention_bias"));
        FEDLLM_TRY(config.mlp_bias, fields.flag("mlp_bias"));
    }
    FEDLLM_TRY(config.bos, fields.token("bos_token_id", config.vocab, 1));
    FEDLLM_TRY(config.eos, fields.token("eos_token_id", config.vocab, 2));
    return config;
}

Result<ModelConfig> read_model_config(const Path& folder) {
    const Path path = folder / "config.json";
    auto text = read_file(path, std::size_t{1} << 20);
    if (!text && text.error().code == Errc::NotFound) {
        return make_error(Errc::NotFound, path.string() +
                                              ": not there; a model folder in Hugging Face's layout has "
                                              "config.json, model.safetensors and tokenizer.json");
    }
    if (!text) return text.error();
    return parse_model_config(*text, path.string());
}

std::string model_config_json(const ModelConfig& config, std::string_view weights_dtype) {
    const auto token = [](std::optional<std::int32_t> id) { return id ? Json(*id) : Json(nullptr); };
    nlohmann::ordered_json json;
    const bool llama = config.model_type == "llama";
    json["architectures"] = {llama ? "LlamaForCausalLM" : "MistralForCausalLM"};
    json["model_type"] = config.model_type;
    json["vocab_size"] = config.vocab;
    json["hidden_size"] = config.hidden;
    json["intermediate_size"] = config.intermediate;
    json["num_hidden_layers"] = config.layers;
    json["num_attention_heads"] = config.heads;
    json["num_key_value_heads"] = config.kv_heads;
    json["head_dim"] = config.head_size;
    json["hidden_act"] = "silu";
    json["max_position_embeddings"] = config.context;
    json["rms_norm_eps"] = shortest(config.norm_epsilon);
    json["rope_theta"] = config.rope_theta;
    json["tie_word_embeddings"] = config.tied_head;
    if (llama) {
        json["attention_bias"] = config.attention_bias;
        json["mlp_bias"] = config.mlp_bias;
    } else {
        json["sliding_window"] = nullptr;
    }
    json["bos_token_id"] = token(config.bos);
    json["eos_token_id"] = token(config.eos);
    json["torch_dtype"] = weights_dtype;
    return json.dump(2) + "\n";
}

}  // namespace fedllm::client::model
