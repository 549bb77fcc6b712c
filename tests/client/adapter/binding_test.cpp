#include "client/adapter/binding.hpp"

#include <gtest/gtest.h>

#include "tests/client/engine/tiny_model.hpp"

namespace fedllm::client::adapter {
namespace {

using engine::testing::all_targets;
using engine::testing::tiny_config;
using tensor::TensorSpec;

const std::string kQ0 = "base_model.model.model.layers.0.self_attn.q_proj.";

Result<Binding> bind(std::vector<TensorSpec> tensors) {
    return Binding::create(tiny_config(), tensor::Manifest::create(std::move(tensors)).value(), 2.0);
}

void expect_refused(std::vector<TensorSpec> tensors, const std::string& words) {
    const auto result = bind(std::move(tensors));
    ASSERT_FALSE(result) << words;
    EXPECT_EQ(result.error().code, Errc::ManifestMismatch);
    EXPECT_NE(result.error().message.find(words), std::string::npos) << result.error().message;
}

TEST(Binding, FindsEveryTensorOfAnAdapter) {
    const auto config = tiny_config();
    const auto manifest = model::lora_manifest(config, all_targets(3)).value();
    const Binding binding = Binding::create(config, manifest, 2.0).value();
    EXPECT_EQ(binding.rank_max, 3U);
    EXPECT_EQ(binding.first_trained_layer(), 0U);
    EXPECT_TRUE(binding.trained());
    const auto shapes = model::projections(config);
    for (std::size_t layer = 0; layer < config.layers; ++layer) {
        for (const auto& shape : shapes) {
            const auto& slots = binding.at(shape.part, layer);
            const std::string name = "base_model.model." + model::layer_name(config, layer, shape.path);
            EXPECT_EQ(slots.lora_a, manifest.offset(*manifest.find(name + ".lora_A.weight")));
            EXPECT_EQ(slots.lora_b, manifest.offset(*manifest.find(name + ".lora_B.weight")));
            EXPECT_EQ(slots.weight, kAbsent);
        }
    }
}

TEST(Binding, FindsEveryTensorOfAWholeModel) {
    auto config = tiny_config();
    config.attention_bias = true;
    const auto manifest = model::full_manifest(config);
    const Binding binding = Binding::create(config, manifest, 1.0).value();
    EXPECT_EQ(binding.at(model::kEmbedding).weight, 0U);
    EXPECT_EQ(binding.at(model::kHead).weight, manifest.offset(*manifest.find("lm_head.weight")));
    EXPECT_EQ(binding.at(model::kO, 1).bias,
              manifest.offset(*manifest.find("model.layers.1.self_attn.o_proj.bias")));
    EXPECT_EQ(binding.at(model::kInputNorm, 2).weight,
              manifest.offset(*manifest.find("model.layers.2.input_layernorm.weight")));
    EXPECT_EQ(binding.rank_max, 0U);
}

TEST(Binding, RanksMayDifferAndLowLayersMayBeFrozen) {
    const std::string up2 = "base_model.model.model.layers.2.mlp.up_proj.";
    const std::string q1 = "base_model.model.model.layers.1.self_attn.q_proj.";
    const Binding binding = bind({{q1 + "lora_A.weight", {2, 24}},
                                  {q1 + "lora_B.weight", {32, 2}},
                                  {up2 + "lora_A.weight", {5, 24}},
                                  {up2 + "lora_B.weight", {40, 5}}})
                                .value();
    EXPECT_EQ(binding.first_trained_layer(), 1U);
    EXPECT_EQ(binding.rank_max, 5U);
    EXPECT_EQ(binding.at(model::kQ, 1).rank, 2U);
}

TEST(Binding, ScalesMayDifferFromModuleToModule) {
    tensor::LoraSpec spec{.rank = 2, .alpha = 4, .rslora = false, .target_modules = {"q_proj"}};
    spec.modules = {{"model.layers.1.self_attn.q_proj", 4, 2}};
    std::vector<tensor::TensorSpec> tensors;
    for (const std::uint64_t layer : {0, 1}) {
        const std::string name =
            "base_model.model.model.layers." + std::to_string(layer) + ".self_attn.q_proj.";
        const std::uint64_t rank = layer == 0 ? 2 : 4;
        tensors.push_back({name + "lora_A.weight", {rank, 24}});
        tensors.push_back({name + "lora_B.weight", {32, rank}});
    }
    const auto manifest = tensor::Manifest::create(tensors).value();
    const Binding binding = Binding::create(tiny_config(), manifest, spec).value();
    EXPECT_EQ(binding.layers[0][model::kQ].lora_scale, 2.0F);
    EXPECT_EQ(binding.layers[1][model::kQ].lora_scale, 0.5F);
    const std::vector<float> values(manifest.elements());
    const auto shapes = model::projections(tiny_config());
    EXPECT_EQ(lora_view(binding.layers[1][model::kQ], shapes[0], values.data()).scale, 0.5F);
}

TEST(Binding, AnEmptyManifestTrainsNothing) {
    const Binding binding = Binding::create(tiny_config(), tensor::Manifest(), 1.0).value();
    EXPECT_FALSE(binding.trained());
    EXPECT_EQ(binding.first_trained_layer(), binding.layers.size());
}

TEST(Binding, RefusesWhatDoesNotFitByName) {
    expect_refused({{"model.layers.3.self_attn.q_proj.weight", {32, 24}}}, "layers.3.self_attn.q_proj");
    expect_refused({{"model.layers.0.self_attn.q_proj.bias", {32}}}, "q_proj.bias");
    expect_refused({{"model.norm.weight", {25}}}, "expected the shape [24]");
    expect_refused({{kQ0 + "lora_A.weight", {2, 23}}, {kQ0 + "lora_B.weight", {32, 2}}}, "[rank, 24]");
    expect_refused({{kQ0 + "lora_A.weight", {2, 24}}}, "come in pairs");
    expect_refused({{kQ0 + "lora_B.weight", {32, 2}}}, "come in pairs");
    expect_refused({{kQ0 + "lora_A.weight", {2, 24}}, {kQ0 + "lora_B.weight", {32, 3}}}, "has rank 2");
    expect_refused({{kQ0 + "lora_A.weight", {5000, 24}}, {kQ0 + "lora_B.weight", {32, 5000}}}, "[rank, 24]");
}

}  // namespace
}  // namespace fedllm::client::adapter
