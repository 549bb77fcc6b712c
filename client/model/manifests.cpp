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

// "c_attn, c_proj, c_fc".
std::string names_of(std::span<const Projection> all) {
    std::vector<std::string_view> names;
    for (const Projection& projection : all) {
        if (std::find(names.begin(), names.end(), projection.name) == names.end()) {
            names.push_back(projection.name);
        }
    }
    std::string text;
    for (const std::string_view name : names) text.append(text.empty() ? "" : ", ").append(name);
    return text;
}

// Rejects what lora_manifest() cannot place, before any tensor is listed.
Result<void> check_targets(std::span<const Projection> all, const tensor::LoraSpec& spec) {
    if (spec.rank == 0)
        return make_error(Errc::InvalidArgument, "a LoRA rank of 0 trains nothing; use 1 or more");
    if (spec.target_modules.empty()) {
        return make_error(Errc::InvalidArgument, "no target modules; name at least one of " + names_of(all));
    }
    for (const std::string& module : spec.target_modules) {
        const auto same = [&](const Projection& projection) { return projection.name == module; };
        if (std::none_of(all.begin(), all.end(), same)) {
            return make_error(Errc::InvalidArgument,
                              "unknown target module '" + module + "'; this model has " + names_of(all));
        }
        if (std::count(spec.target_modules.begin(), spec.target_modules.end(), module) > 1) {
            return make_error(Errc::InvalidArgument, "target module '" + module + "' is listed twice");
        }
    }
    return {};
}

// Rows and columns of a part's weight, out before in; a norm's weight has one row.
struct Size {
    std::size_t out = 1;
    std::size_t in = 1;
};
Size size_of(const ModelConfig& config, Part part) {
    const std::size_t c = config.hidden;
    const std::size_t q = config.query_width();
    const std::size_t k = config.key_width();
    const std::size_t f = config.intermediate;
    switch (part) {
        case kEmbedding:
        case kHead: return {config.vocab, c};
        case kPositions: return {config.context, c};
        case kFinalNorm:
        case kInputNorm:
        case kMlpNorm: return {1, c};
        case kQueryNorm:
        case kKeyNorm: return {1, config.head_size};
        case kQ: return {q, c};
        case kK:
        case kV: return {k, c};
        case kQkv: return {q + 2 * k, c};
        case kO: return {c, q};
        case kGate:
        case kUp: return {f, c};
        case kDown: return {c, f};
    }
    return {};
}

bool has_bias(const ModelConfig& config, const PartName& name) {
    return name.bias == Bias::Yes || name.bias == Bias::OrZero ||
           (name.bias == Bias::Attention && config.attention_bias) ||
           (name.bias == Bias::Mlp && config.mlp_bias);
}

void add_part(std::vector<ModelTensor>& tensors, const ModelConfig& config, const PartName& name,
              std::size_t layer) {
    const std::string path =
        in_layers(name.part) ? layer_name(config, layer, name.path) : std::string(name.path);
    const Size size = size_of(config, name.part);
    std::vector<std::uint64_t> shape{size.out, size.in};
    if (is_norm(name.part)) shape.erase(shape.begin());
    if (is_linear(name.part) && config.family->storage == Storage::InOut) std::swap(shape[0], shape[1]);
    tensors.push_back({name.part, layer, false, false, {path + ".weight", std::move(shape)}});
    const std::uint64_t width = is_norm(name.part) ? size.in : size.out;
    if (!has_bias(config, name)) return;
    tensors.push_back({name.part, layer, true, name.bias == Bias::OrZero, {path + ".bias", {width}}});
}

void fill_normal(std::span<float> values, Rng rng, float deviation) {
    for (float& value : values) value = deviation * rng.normal();
}

}  // namespace

std::vector<ModelTensor> model_tensors(const ModelConfig& config) {
    std::vector<ModelTensor> tensors;
    const Family& family = *config.family;
    for (const PartName& name : family.once) {
        if (name.part == kEmbedding || name.part == kPositions) add_part(tensors, config, name, 0);
    }
    for (std::size_t layer = 0; layer < config.layers; ++layer) {
        for (const PartName& name : family.layer) add_part(tensors, config, name, layer);
    }
    for (const PartName& name : family.once) {
        if (name.part == kFinalNorm || (name.part == kHead && !config.tied_head)) {
            add_part(tensors, config, name, 0);
        }
    }
    return tensors;
}

std::vector<Projection> projections(const ModelConfig& config) {
    std::vector<Projection> all;
    for (const PartName& name : config.family->layer) {
        if (!is_linear(name.part)) continue;
        const Size size = size_of(config, name.part);
        all.push_back({name.part, name.path.substr(name.path.rfind('.') + 1), name.path, size.out, size.in,
                       has_bias(config, name), config.family->storage});
    }
    return all;
}

std::string layer_name(const ModelConfig& config, std::size_t layer, std::string_view rest) {
    return std::string(config.family->layers) + std::to_string(layer) + "." + std::string(rest);
}

Manifest full_manifest(const ModelConfig& config) {
    std::vector<TensorSpec> specs;
    for (ModelTensor& tensor : model_tensors(config)) specs.push_back(std::move(tensor.spec));
    return Manifest::create(std::move(specs)).value();  // parse_model_config() bounds the sizes
}

Result<Manifest> lora_manifest(const ModelConfig& config, const tensor::LoraSpec& spec) {
    const auto linears = projections(config);
    FEDLLM_TRY_VOID(check_targets(linears, spec));
    std::vector<TensorSpec> tensors;
    for (std::size_t layer = 0; layer < config.layers; ++layer) {
        for (const Projection& projection : linears) {
            const auto& wanted = spec.target_modules;
            if (std::find(wanted.begin(), wanted.end(), projection.name) == wanted.end()) continue;
            const std::string name = "base_model.model." + layer_name(config, layer, projection.path);
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
    const std::vector<ModelTensor> tensors = model_tensors(config);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const ModelTensor& tensor = tensors[i];
        const auto values = parameters.tensor(i);
        if (tensor.is_bias) continue;
        if (is_norm(tensor.part)) {
            std::fill(values.begin(), values.end(), 1.0F);
        } else {
            const bool to_residual = tensor.part == kO || tensor.part == kDown;
            fill_normal(values, Rng(seed, tensor.spec.name), to_residual ? residual : kDeviation);
        }
    }
    return parameters;
}

}  // namespace fedllm::client::model
