#include "client/model/manifests.hpp"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "common/base/philox.hpp"

namespace fedllm::client::model {
namespace {

using tensor::Manifest;
using tensor::ParamSet;
using tensor::TensorSpec;

// Rejects what lora_manifest() cannot place, before any tensor is listed.
Result<void> check_targets(std::span<const Projection> all, const tensor::LoraSpec& spec) {
    if (spec.rank == 0)
        return make_error(Errc::InvalidArgument, "a LoRA rank of 0 trains nothing; use 1 or more");
    if (spec.target_modules.empty()) {
        return make_error(Errc::InvalidArgument,
                          "no target modules; name at least one, for example q_proj, v_proj");
    }
    for (const std::string& module : spec.target_modules) {
        const auto same = [&](const Projection& projection) { return projection.name == module; };
        if (std::none_of(all.begin(), all.end(), same)) {
            return make_error(Errc::InvalidArgument, "unknown target module '" + module +
                                                         "'; supported are q_proj, k_proj, v_proj, o_proj, "
                                                         "gate_proj, up_proj and down_proj");
        }
        if (std::count(spec.target_modules.begin(), spec.target_modules.end(), module) > 1) {
            return make_error(Errc::InvalidArgument, "target module '" + module + "' is listed twice");
        }
    }
    return {};
}

void add_projection(std::vector<TensorSpec>& tensors, std::size_t layer, const Projection& projection) {
    const std::string name = layer_name(layer, projection.path);
    tensors.push_back({name + ".weight", {projection.out, projection.in}});
    if (projection.bias) tensors.push_back({name + ".bias", {projection.out}});
}

void fill_normal(std::span<float> values, Rng rng, float deviation) {
    for (float& value : values) value = deviation * rng.normal();
}

}  // namespace

std::array<Projection, kProjections> projections(const ModelConfig& config) {
    const std::size_t c = config.hidden;
    const std::size_t q = config.query_width();
    const std::size_t k = config.key_width();
    const std::size_t f = config.intermediate;
    const bool attention = config.attention_bias;
    const bool mlp = config.mlp_bias;
    return {{{"q_proj", "self_attn.q_proj", q, c, attention},
             {"k_proj", "self_attn.k_proj", k, c, attention},
             {"v_proj", "self_attn.v_proj", k, c, attention},
             {"o_proj", "self_attn.o_proj", c, q, attention},
             {"gate_proj", "mlp.gate_proj", f, c, mlp},
             {"up_proj", "mlp.up_proj", f, c, mlp},
             {"down_proj", "mlp.down_proj", c, f, mlp}}};
}

std::string layer_name(std::size_t layer, std::string_view rest) {
    return "model.layers." + std::to_string(layer) + "." + std::string(rest);
}

Manifest full_manifest(const ModelConfig& config) {
    const auto linears = projections(config);
    std::vector<TensorSpec> tensors{{"model.embed_tokens.weight", {config.vocab, config.hidden}}};
    for (std::size_t layer = 0; layer < config.layers; ++layer) {
        tensors.push_back({layer_name(layer, "input_layernorm.weight"), {config.hidden}});
        for (std::size_t i = 0; i < 4; ++i) add_projection(tensors, layer, linears[i]);
        tensors.push_back({layer_name(layer, "post_attention_layernorm.weight"), {config.hidden}});
        for (std::size_t i = 4; i < kProjections; ++i) add_projection(tensors, layer, linears[i]);
    }
    tensors.push_back({"model.norm.weight", {config.hidden}});
    if (!config.tied_head) tensors.push_back({"lm_head.weight", {config.vocab, config.hidden}});
    return Manifest::create(std::move(tensors)).value();  // parse_model_config() bounds the sizes
}

Result<Manifest> lora_manifest(const ModelConfig& config, const tensor::LoraSpec& spec) {
    const auto linears = projections(config);
    FEDLLM_TRY_VOID(check_targets(linears, spec));
    std::vector<TensorSpec> tensors;
    for (std::size_t layer = 0; layer < config.layers; ++layer) {
        for (const Projection& projection : linears) {
            const auto& wanted = spec.target_modules;
            if (std::find(wanted.begin(), wanted.end(), projection.name) == wanted.end()) continue;
            const std::string name = "base_model.model." + layer_name(layer, projection.path);
            tensors.push_back({name + ".lora_A.weight", {spec.rank, projection.in}});
            tensors.push_back({name + ".lora_B.weight", {projection.out, spec.rank}});
        }
    }
    return Manifest::create(std::move(tensors));
}

ParamSet initial_lora(const Manifest& manifest, std::uint64_t seed) {
    ParamSet parameters(manifest);
    for (std::size_t i = 0; i < manifest.tensors().size(); ++i) {
        const TensorSpec& spec = manifest.tensors()[i];
        if (spec.name.ends_with(".lora_B.weight")) continue;
        FEDLLM_CHECK(spec.name.ends_with(".lora_A.weight") && spec.shape.size() == 2, tensor::describe(spec));
        const float bound = 1.0F / std::sqrt(static_cast<float>(spec.shape[1]));
        Rng rng(seed, spec.name);
        for (float& value : parameters.tensor(i)) value = rng.uniform(-bound, bound);
    }
    return parameters;
}

ParamSet initial_full(const ModelConfig& config, std::uint64_t seed) {
    constexpr float kDeviation = 0.02F;
    const float residual = kDeviation / std::sqrt(2.0F * static_cast<float>(config.layers));
    ParamSet parameters(full_manifest(config));
    const auto tensors = parameters.manifest().tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const std::string& name = tensors[i].name;
        const auto values = parameters.tensor(i);
        if (name.ends_with("norm.weight")) {
            std::fill(values.begin(), values.end(), 1.0F);
        } else if (!name.ends_with(".bias")) {
            const bool to_residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
            fill_normal(values, Rng(seed, name), to_residual ? residual : kDeviation);
        }
    }
    return parameters;
}

}  // namespace fedllm::client::model
