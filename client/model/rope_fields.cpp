#include "client/model/rope_fields.hpp"

#include <algorithm>
#include <string>

namespace fedllm::client::model {
namespace {

using formats::in_quotes;

constexpr std::size_t kContextMax = 1 << 27;
constexpr double kFactorMax = 1e6;

// A factor that the scaling cannot do without.
Result<double> factor(const Fields& rope, const char* key, double low) {
    if (!rope.find(key)) return rope.error(Errc::InvalidModel, key, "is missing");
    return rope.number(key, low, kFactorMax, low);
}

Result<void> read_llama3(const Fields& fields, const Fields& rope, ModelConfig& config) {
    RopeScaling& scaling = config.rope_scaling;
    FEDLLM_TRY(scaling.low_frequency_factor, factor(rope, "low_freq_factor", 1e-6));
    FEDLLM_TRY(scaling.high_frequency_factor, factor(rope, "high_freq_factor", 1e-6));
    if (scaling.high_frequency_factor <= scaling.low_frequency_factor) {
        return rope.error(Errc::InvalidModel, "high_freq_factor", "must be larger than low_freq_factor");
    }
    constexpr const char* kKey = "original_max_position_embeddings";
    FEDLLM_TRY(scaling.original_context, rope.size(kKey, kContextMax, config.context));
    // transformers prefers the field beside rope_scaling where a file has both.
    FEDLLM_TRY(scaling.original_context, fields.size(kKey, kContextMax, scaling.original_context));
    return {};
}

Result<void> read_scaling(const Fields& fields, const char* key, const Json& rope, const Fields& inner,
                          ModelConfig& config) {
    std::string type = "default";
    for (const char* type_key : {"type", "rope_type"}) {  // the newer name wins
        if (const Json* value = inner.find(type_key)) {
            type = value->is_string() ? value->get<std::string>() : value->dump();
        }
    }
    const bool nested = std::any_of(rope.begin(), rope.end(), [](const Json& v) { return v.is_object(); });
    if (nested || (type != "default" && type != "linear" && type != "llama3")) {
        return fields.error(
            Errc::Unsupported, key,
            (nested ? std::string("differs from layer to layer") : "asks for " + in_quotes(type)) +
                "; supported are null, 'default', 'linear' and 'llama3'");
    }
    if (type == "default") return {};
    config.rope_scaling.kind = type == "linear" ? RopeScaling::Kind::Linear : RopeScaling::Kind::Llama3;
    FEDLLM_TRY(config.rope_scaling.factor, factor(inner, "factor", 1.0));
    if (config.rope_scaling.kind == RopeScaling::Kind::Linear) return {};
    return read_llama3(fields, inner, config);
}

Result<void> check_whole_heads(const Fields& fields) {
    FEDLLM_TRY(const double part, fields.number("partial_rotary_factor", 0.0, 1.0, 1.0));
    if (part == 1.0) return {};
    return fields.error(Errc::Unsupported, "partial_rotary_factor", "must be 1");
}

}  // namespace

Result<void> read_rope(const Fields& fields, ModelConfig& config) {
    constexpr double kThetaMax = 1e12;
    FEDLLM_TRY(config.rope_theta, fields.number("rope_theta", 1.0, kThetaMax, 10000.0));
    FEDLLM_TRY_VOID(check_whole_heads(fields));
    for (const char* key : {"rope_scaling", "rope_parameters"}) {  // to transformers 4, and from 5
        const Json* rope = fields.find(key);
        if (!rope) continue;
        if (!rope->is_object()) return fields.error(Errc::InvalidModel, key, "must be an object or null");
        const Fields inner = fields.inside(key, *rope);
        FEDLLM_TRY_VOID(read_scaling(fields, key, *rope, inner, config));
        FEDLLM_TRY(config.rope_theta, inner.number("rope_theta", 1.0, kThetaMax, config.rope_theta));
        FEDLLM_TRY_VOID(check_whole_heads(inner));
    }
    return {};
}

nlohmann::ordered_json rope_scaling_json(const RopeScaling& scaling) {
    nlohmann::ordered_json json;
    if (scaling.kind == RopeScaling::Kind::None) return json;
    const bool linear = scaling.kind == RopeScaling::Kind::Linear;
    json["rope_type"] = linear ? "linear" : "llama3";
    json["factor"] = scaling.factor;
    if (linear) return json;
    json["low_freq_factor"] = scaling.low_frequency_factor;
    json["high_freq_factor"] = scaling.high_frequency_factor;
    json["original_max_position_embeddings"] = scaling.original_context;
    return json;
}

}  // namespace fedllm::client::model
