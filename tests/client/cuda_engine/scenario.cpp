#include "tests/client/cuda_engine/scenario.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <string_view>

#include "client/model/manifests.hpp"
#include "common/base/philox.hpp"
#include "kernels/cross_entropy/op.hpp"
#include "kernels/cuda/bf16.hpp"
#include "kernels/quantize/code_books.hpp"

namespace fedllm::client::cuda_engine::cases {
namespace {

using kernels::WeightType;
using kernels::WeightView;

model::ModelConfig tiny(const char* family) {
    model::ModelConfig config;
    config.family = model::find_family(family);
    config.hidden = 32;
    config.layers = 2;
    config.heads = 4;
    config.kv_heads = 2;
    config.head_size = 16;  // heads * head_size != hidden
    config.intermediate = 40;
    config.vocab = 61;
    config.context = 48;
    config.norm_epsilon = 1e-5F;
    return config;
}

model::ModelConfig tiny_gpt2() {
    model::ModelConfig config = tiny("gpt2");
    config.kv_heads = config.heads;
    config.head_size = config.hidden / config.heads;
    config.tied_head = true;
    return config;
}

std::vector<std::string> all_modules(const model::ModelConfig& config) {
    std::vector<std::string> names;
    for (const auto& projection : model::projections(config)) {
        const std::string name(projection.name);
        if (names.empty() || std::find(names.begin(), names.end(), name) == names.end())
            names.push_back(name);
    }
    return names;
}

// lora_manifest() with the ranks of LoraSpec::modules.
tensor::Manifest adapters(const model::ModelConfig& config, const tensor::LoraSpec& lora) {
    constexpr std::string_view kFront = "base_model.model.", kBack = ".lora_A.weight";
    const tensor::Manifest same = model::lora_manifest(config, lora).value();
    std::vector<tensor::TensorSpec> specs(same.tensors().begin(), same.tensors().end());
    for (tensor::TensorSpec& spec : specs) {
        const std::string path =
            spec.name.substr(kFront.size(), spec.name.size() - kFront.size() - kBack.size());
        spec.shape[spec.name.ends_with(kBack) ? 0 : 1] = lora.module(path).rank;
    }
    return tensor::Manifest::create(specs).value();
}

// The nearest code of each value, by blocks of 64.
void quantise_nf4(std::span<const float> values, unsigned char* codes, float* scales) {
    const auto& levels = kernels::kNf4Values;
    std::fill_n(codes, (values.size() + 1) / 2, static_cast<unsigned char>(0));
    for (std::size_t i = 0; i < values.size(); ++i) {
        float& scale = scales[i / 64];
        if (i % 64 == 0) {
            scale = 0;
            for (const float value : values.subspan(i, std::min<std::size_t>(64, values.size() - i)))
                scale = std::max(scale, std::fabs(value));
        }
        std::size_t code = 0;
        for (std::size_t other = 1; other < levels.size(); ++other) {
            if (std::fabs(levels[other] * scale - values[i]) < std::fabs(levels[code] * scale - values[i]))
                code = other;
        }
        codes[i / 2] |= static_cast<unsigned char>(i % 2 == 0 ? code << 4 : code);
    }
}

}  // namespace

std::vector<Scenario> scenarios() {
    std::vector<Scenario> all;
    all.push_back({.name = "llama_lora", .config = tiny("llama"), .some = {}});
    all.push_back({.name = "llama_nf4", .config = tiny("llama"), .base = WeightType::NF4, .some = {}});
    all.back().lora.target_modules = {"q_proj", "v_proj", "down_proj"};
    all.push_back({.name = "llama_ragged",
                   .config = tiny("llama"),
                   .base = WeightType::NF4,
                   .some = {},
                   .rows = 5,
                   .micro_rows = 2,
                   .packed = true});
    all.back().config.layers = 4;  // panels take turns in a ring
    all.back().lora.modules = {{"model.layers.1.mlp.up_proj", 17, 20.0},
                               {"model.layers.1.self_attn.o_proj", 9, 9.0},
                               {"model.layers.1.self_attn.q_proj", 9, 9.0}};
    all.push_back({.name = "llama_full", .config = tiny("llama"), .trained = Trained::Full, .some = {}});
    all.push_back({.name = "llama_some",
                   .config = tiny("llama"),
                   .trained = Trained::Some,
                   .some = {"model.layers.1.self_attn.k_proj.weight", "model.layers.1.mlp.up_proj.weight",
                            "model.layers.1.post_attention_layernorm.weight", "model.norm.weight"}});
    all.push_back({.name = "qwen2_lora", .config = tiny("qwen2"), .base = WeightType::Int8, .some = {}});
    all.back().config.tied_head = true;
    all.push_back({.name = "qwen2_full", .config = tiny("qwen2"), .trained = Trained::Full, .some = {}});
    all.back().config.tied_head = true;
    all.push_back({.name = "qwen3_lora", .config = tiny("qwen3"), .base = WeightType::F32, .some = {}});
    all.push_back({.name = "qwen3_full", .config = tiny("qwen3"), .trained = Trained::Full, .some = {}});
    all.push_back({.name = "mistral_window", .config = tiny("mistral"), .some = {}, .packed = true});
    all.back().config.window = 5;
    all.back().config.window_from = 1;
    all.push_back({.name = "gpt2_lora", .config = tiny_gpt2(), .some = {}});
    all.push_back({.name = "gpt2_full", .config = tiny_gpt2(), .trained = Trained::Full, .some = {}});
    all.push_back({.name = "freeze_a", .config = tiny("llama"), .some = {}});
    all.back().lora.freeze_a = true;
    // More tokens that count than logits exist at once, and a micro-batch that has fewer.
    all.push_back({.name = "llama_chunks",
                   .config = tiny("llama"),
                   .some = {},
                   .rows = 62,
                   .micro_rows = 61,
                   .steps = 1});
    all.back().config.layers = 1;
    all.back().config.vocab = 24;
    all.back().lora.target_modules = {"v_proj", "gate_proj"};
    for (Scenario& made : all) {
        if (made.lora.target_modules.empty()) made.lora.target_modules = all_modules(made.config);
    }
    return all;
}

const Scenario& scenario(const std::vector<Scenario>& all, const std::string& name) {
    for (const Scenario& one : all) {
        if (one.name == name) return one;
    }
    check_failed("a scenario", __FILE__, __LINE__, name);
}

Setting::Setting(const Scenario& scenario) : scenario_(scenario) {
    make_base();
    make_params();
}

engine::Network Setting::network() const {
    return engine::Network::create(scenario_.config, base_, params_.manifest(), scenario_.lora).value();
}

engine::Limits Setting::limits() const { return {scenario_.micro_rows, scenario_.tokens, scenario_.keep}; }

std::vector<engine::Run> Setting::frozen() const {
    std::vector<engine::Run> runs;
    for (std::size_t i = 0; scenario_.lora.freeze_a && i < params_.manifest().tensors().size(); ++i) {
        const auto& spec = params_.manifest().tensors()[i];
        if (spec.name.ends_with("lora_A.weight"))
            runs.push_back({params_.manifest().offset(i), spec.elements()});
    }
    return runs;
}

// Values that bf16 holds, so that engines differ by what they compute alone; quantised ones are drawn as
// codes.
WeightView Setting::matrix(std::size_t rows, std::size_t cols, WeightType type, const std::string& name) {
    Rng rng(7, name);
    const std::size_t elements = rows * cols;
    const auto take = [&](std::size_t bytes) {
        return memory_.emplace_back(std::make_unique<unsigned char[]>(bytes)).get();
    };
    const bool norm = rows == 1;
    WeightView view{nullptr, type, rows, cols};
    if (scenario_.quantised && type == WeightType::NF4) {
        view.block = 64;
        auto* const codes = take((elements + 1) / 2);
        auto* const scales = reinterpret_cast<float*>(take((elements + 63) / 64 * 4));
        std::vector<float> values(elements);
        for (float& value : values)
            value = kernels::cuda::widen(kernels::cuda::narrow(scenario_.spread * rng.normal()));
        quantise_nf4(values, codes, scales);
        view.data = codes;
        view.scales = scales;
        return view;
    }
    if (type == WeightType::F32 || type == WeightType::BF16) {
        auto* const data = take(elements * (type == WeightType::F32 ? 4 : 2));
        for (std::size_t i = 0; i < elements; ++i) {
            const auto value =
                kernels::cuda::narrow(norm ? rng.uniform(0.5F, 1.5F) : scenario_.spread * rng.normal());
            const float wide = kernels::cuda::widen(value);
            if (type == WeightType::F32) std::memcpy(data + 4 * i, &wide, 4);
            if (type == WeightType::BF16) std::memcpy(data + 2 * i, &value, 2);
        }
        view.data = data;
        return view;
    }
    const std::size_t scales = type == WeightType::Int8 ? rows : (elements + 63) / 64;
    auto* const codes = take(type == WeightType::Int8 ? elements : (elements + 1) / 2);
    for (std::size_t i = 0; i < (type == WeightType::Int8 ? elements : (elements + 1) / 2); ++i)
        codes[i] = static_cast<unsigned char>(rng.next_u32());
    auto* const values = reinterpret_cast<float*>(take(scales * 4));
    for (std::size_t i = 0; i < scales; ++i)
        values[i] = rng.uniform(0.5F, 1.0F) * (type == WeightType::Int8 ? 0.003F : 0.4F);
    view.data = codes;
    view.scales = values;
    return view;
}

void Setting::make_base() {
    const model::ModelConfig& config = scenario_.config;
    std::vector<WeightView> views;
    for (const model::ModelTensor& tensor : model::model_tensors(config)) {
        const auto& shape = tensor.spec.shape;
        const bool linear = model::is_linear(tensor.part) && !tensor.is_bias;
        const bool turned = linear && config.family->storage == model::Storage::InOut;
        const std::size_t rows = shape.size() == 2 ? shape[turned ? 1 : 0] : 1;
        const std::size_t cols = shape.size() == 2 ? shape[turned ? 0 : 1] : shape[0];
        const WeightType plain = shape.size() == 2 ? WeightType::BF16 : WeightType::F32;
        views.push_back(matrix(rows, cols, linear ? scenario_.base : plain, tensor.spec.name));
    }
    base_ = model::arrange(config, views);
    for (const model::ModelTensor& tensor : model::model_tensors(config)) {
        if (model::is_linear(tensor.part)) base_.at(tensor.part, tensor.layer).operands = scenario_.operands;
    }
    base_.at(model::kHead).operands = scenario_.operands;
}

void Setting::make_params() {
    const model::ModelConfig& config = scenario_.config;
    if (scenario_.trained == Trained::Lora) {
        params_ = model::initial_lora(adapters(config, scenario_.lora), 3);
        Rng rng(3, "lora");
        for (float& value : params_.values()) value += 0.1F * rng.normal();
    } else {
        std::vector<tensor::TensorSpec> specs;
        const tensor::Manifest full = model::full_manifest(config);
        for (const auto& spec : full.tensors()) {
            const auto& some = scenario_.some;
            if (some.empty() || std::find(some.begin(), some.end(), spec.name) != some.end())
                specs.push_back(spec);
        }
        params_ = tensor::ParamSet(tensor::Manifest::create(specs).value());
        for (std::size_t i = 0; i < specs.size(); ++i) {
            Rng rng(5, specs[i].name);
            const bool norm = specs[i].shape.size() == 1 && !specs[i].name.ends_with("bias");
            for (float& value : params_.tensor(i))
                value = norm ? rng.uniform(0.5F, 1.5F) : 0.2F * rng.normal();
        }
    }
    for (float& value : params_.values()) value = kernels::cuda::widen(kernels::cuda::narrow(value));
}

Setting::Batch Setting::batch(std::uint64_t seed, std::size_t rows) const {
    Batch batch{rows, scenario_.tokens, {}, {}, {}, {}};
    Rng rng(seed, "batch");
    const std::size_t vocab = scenario_.config.vocab;
    for (std::size_t i = 0; i < rows * scenario_.tokens; ++i) {
        const std::size_t t = i % scenario_.tokens;
        const std::size_t cut = scenario_.packed ? 9 + i / scenario_.tokens : 0;
        const std::size_t start = t >= cut ? cut : 0;
        batch.tokens.push_back(static_cast<std::int32_t>(rng.below(vocab)));
        const bool ignored = i % (3 + seed % 3) == 1;
        batch.targets.push_back(ignored ? kernels::kIgnoreIndex
                                        : static_cast<std::int32_t>(rng.below(vocab)));
        batch.positions.push_back(static_cast<std::int32_t>(t - start));
        batch.first_key.push_back(static_cast<std::int32_t>(start));
    }
    return batch;
}

}  // namespace fedllm::client::cuda_engine::cases
