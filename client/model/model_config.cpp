#include "client/model/model_config.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "client/model/config_fields.hpp"
#include "client/model/rope_fields.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::client::model {
namespace {

using formats::in_quotes;

// "'llama', 'mistral' and 'gpt2'".
template <class Names>
std::string listed(const Names& names) {
    std::string text;
    for (std::size_t i = 0; i < names.size(); ++i) {
        if (i != 0) text += i + 1 == names.size() ? " and " : ", ";
        text += in_quotes(names[i]);
    }
    return text;
}

bool is_text(const Json& value, std::string_view text) {
    return value.is_string() && value.get_ref<const std::string&>() == text;
}

Result<const Family*> read_family(const Fields& fields) {
    const Json* type = fields.find("model_type");
    if (!type || !type->is_string()) return fields.error(Errc::InvalidModel, "model_type", "is missing");
    const auto name = type->get<std::string>();
    const Family* family = find_family(name);
    if (!family) {
        std::vector<std::string_view> known;
        for (const Family& one : families()) known.push_back(one.model_type);
        return fields.error(Errc::Unsupported, "model_type",
                            "is " + in_quotes(name) + "; supported are " + listed(known));
    }
    const Json* list = fields.find("architectures");
    const auto is_wanted = [&](const Json& item) { return is_text(item, family->architecture); };
    if (list && !(list->is_array() && std::any_of(list->begin(), list->end(), is_wanted))) {
        return fields.error(Errc::Unsupported, "architectures",
                            "must list " + std::string(family->architecture));
    }
    return family;
}

// What would change the computation in ways the engine does not follow.
Result<void> check_features(const Fields& fields, const Family& family) {
    const Json* activation = fields.find(family.keys.activation);
    const auto is_it = [&](std::string_view name) { return is_text(*activation, name); };
    if (activation && std::none_of(family.activations.begin(), family.activations.end(), is_it)) {
        return fields.error(Errc::Unsupported, family.keys.activation,
                            "is " + activation->dump() + "; supported are " + listed(family.activations));
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
    for (const FixedFlag& fixed : family.flags) {
        FEDLLM_TRY(const bool value, fields.flag(fixed.key, fixed.value));
        if (value == fixed.value) continue;
        return fields.error(Errc::Unsupported, fixed.key,
                            std::string("must be ") + (fixed.value ? "true" : "false"));
    }
    return {};
}

// Absent means the family's default, null as many heads as queries have.
Result<void> read_heads(const Fields& fields, ModelConfig& config) {
    const ConfigKeys& keys = config.family->keys;
    const ConfigDefaults& defaults = config.family->defaults;
    FEDLLM_TRY(config.heads, fields.size(keys.heads, 1 << 10));
    config.kv_heads = config.heads;
    if (keys.kv_heads) {
        const bool absent = defaults.kv_heads != 0 && !fields.has_key(keys.kv_heads);
        FEDLLM_TRY(config.kv_heads,
                   fields.size(keys.kv_heads, 1 << 10, absent ? defaults.kv_heads : config.heads));
    }
    if (config.heads % config.kv_heads != 0) {
        return fields.error(Errc::InvalidModel, keys.heads,
                            "(" + std::to_string(config.heads) + ") must be a multiple of " + keys.kv_heads +
                                " (" + std::to_string(config.kv_heads) + ")");
    }
    const bool given = keys.head_size && (fields.find(keys.head_size) || defaults.head_size != 0);
    if (!given && config.hidden % config.heads != 0) {
        return fields.error(Errc::InvalidModel, keys.hidden,
                            std::string("must be a multiple of ") + keys.heads +
                                (keys.head_size ? " where head_dim is not given" : ""));
    }
    config.head_size = config.hidden / config.heads;
    if (given) {
        FEDLLM_TRY(config.head_size, fields.size(keys.head_size, 1 << 10, defaults.head_size));
    }
    if (config.family->positions == Positions::Rotary && config.head_size % 2 != 0) {
        return fields.error(Errc::InvalidModel, "head_dim",
                            "(" + std::to_string(config.head_size) + ") must be even: RoPE turns pairs");
    }
    return {};
}

Result<void> read_sizes(const Fields& fields, ModelConfig& config) {
    const ConfigKeys& keys = config.family->keys;
    const ConfigDefaults& defaults = config.family->defaults;
    FEDLLM_TRY(config.hidden, fields.size(keys.hidden, 1 << 16));
    FEDLLM_TRY(config.layers, fields.size(keys.layers, 1 << 10));
    FEDLLM_TRY_VOID(read_heads(fields, config));
    std::optional<std::size_t> width;
    if (defaults.intermediate != 0) width = defaults.intermediate * config.hidden;
    FEDLLM_TRY(config.intermediate, fields.size(keys.intermediate, 1 << 20, width));
    FEDLLM_TRY(config.vocab, fields.size("vocab_size", 1 << 24));
    FEDLLM_TRY(config.context, fields.size(keys.context, 1 << 27, defaults.context));
    return {};
}

// The first layer with a window where the file lists each layer's kind: full ones, then sliding ones.
Result<std::size_t> first_sliding(const Fields& fields, const Json& kinds, std::size_t layers) {
    const auto sliding = [](const Json& kind) { return is_text(kind, "sliding_attention"); };
    const auto full = [](const Json& kind) { return is_text(kind, "full_attention"); };
    const auto first = std::find_if(kinds.begin(), kinds.end(), sliding);
    const bool plain = kinds.is_array() && kinds.size() == layers &&
                       std::all_of(kinds.begin(), first, full) && std::all_of(first, kinds.end(), sliding);
    if (plain) return static_cast<std::size_t>(first - kinds.begin());
    return fields.error(Errc::Unsupported, "layer_types",
                        "must list one kind per layer: some 'full_attention', then only 'sliding_attention'");
}

Result<void> read_window(const Fields& fields, ModelConfig& config) {
    constexpr std::size_t kAbsentMeans = 4096,
                          kWindowMax = (std::size_t{1} << 31) - 1;  // as in both families
    const Window rule = config.family->window;
    if (rule == Window::None) {
        if (!fields.find("sliding_window")) return {};
        return fields.error(Errc::Unsupported, "sliding_window",
                            "must be null: a " + std::string(config.family->model_type) + " has no window");
    }
    const bool null = fields.has_key("sliding_window") && !fields.find("sliding_window");
    std::size_t window = 0;
    if (!null) {
        FEDLLM_TRY(window, fields.size("sliding_window", kWindowMax, kAbsentMeans));
    }
    std::size_t from = 0;
    if (rule == Window::FromLayer) {
        FEDLLM_TRY(const bool used, fields.flag("use_sliding_window"));
        if (!used) window = 0;
        FEDLLM_TRY(from, fields.count("max_window_layers", 1 << 10, 28));
        if (const Json* kinds = fields.find("layer_types")) {
            FEDLLM_TRY(from, first_sliding(fields, *kinds, config.layers));
            if (from < config.layers && window == 0) {
                return fields.error(Errc::InvalidModel, "layer_types",
                                    "asks for windows, and use_sliding_window and sliding_window do not");
            }
        }
    }
    if (window == 0 || from >= config.layers) return {};
    config.window = window;
    config.window_from = from;
    return {};
}

// The bounds of read_sizes keep this far from overflow.
std::uint64_t elements(const ModelConfig& config) {
    const std::uint64_t attention = 2 * config.hidden * (config.query_width() + config.key_width());
    const std::uint64_t block = attention + 3 * config.hidden * config.intermediate +
                                2 * config.intermediate + 8 * config.hidden + config.query_width() +
                                2 * config.key_width() + 2 * config.head_size;
    const std::uint64_t positions = config.family->positions == Positions::Learned ? config.context : 0;
    return config.layers * block + (2 * config.vocab + positions + 2) * config.hidden;
}

}  // namespace

Result<ModelConfig> parse_model_config(std::string_view json, std::string_view source) {
    FEDLLM_TRY(const Json object, formats::parse_json(json, source));
    if (!object.is_object()) {
        return make_error(Errc::InvalidModel, std::string(source) + ": expected a JSON object");
    }
    const Fields fields(object, std::string(source));
    ModelConfig config;
    FEDLLM_TRY(config.family, read_family(fields));
    const ConfigDefaults& defaults = config.family->defaults;
    FEDLLM_TRY_VOID(check_features(fields, *config.family));
    FEDLLM_TRY_VOID(read_sizes(fields, config));
    if (elements(config) > tensor::Manifest::kElementsMax) {
        return make_error(Errc::InvalidModel,
                          std::string(source) + ": its sizes make more than 2^40 parameters");
    }
    FEDLLM_TRY(const double epsilon,
               fields.number(config.family->keys.epsilon, 1e-12, 1.0, defaults.epsilon));
    config.norm_epsilon = static_cast<float>(epsilon);
    if (config.family->positions == Positions::Rotary) {
        FEDLLM_TRY_VOID(read_rope(fields, config));
    }
    FEDLLM_TRY_VOID(read_window(fields, config));
    FEDLLM_TRY(config.tied_head, fields.flag("tie_word_embeddings", defaults.tied_head));
    if (config.family->leaves(Bias::Attention)) {
        FEDLLM_TRY(config.attention_bias, fields.flag("attention_bias"));
    }
    if (config.family->leaves(Bias::Mlp)) {
        FEDLLM_TRY(config.mlp_bias, fields.flag("mlp_bias"));
    }
    FEDLLM_TRY(config.bos, fields.token("bos_token_id", config.vocab, defaults.bos));
    FEDLLM_TRY(config.eos, fields.token("eos_token_id", config.vocab, defaults.eos));
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

}  // namespace fedllm::client::model
