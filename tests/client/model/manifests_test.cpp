#include "client/model/manifests.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "common/formats/peft.hpp"
#include "common/formats/safetensors.hpp"

namespace fedllm::client::model {
namespace {

using tensor::LoraSpec;
using tensor::Manifest;

const std::string kGolden = "tests/golden/llama/";
const auto kModels = {"llama/gqa",        "llama/tied_bias", "llama/long_rope", "families/llama3",
                      "families/mistral", "families/qwen2",  "families/qwen3",  "families/gpt2"};

std::vector<std::string> texts(const Manifest& manifest) {
    std::vector<std::string> result;
    for (const auto& spec : manifest.tensors()) result.push_back(tensor::describe(spec));
    return result;
}

double deviation(std::span<const float> values) {
    double sum = 0;
    for (const float value : values) sum += double{value} * value;
    return std::sqrt(sum / static_cast<double>(values.size()));
}

// transformers wrote these files: same names, same shapes, no more and no less.
TEST(Manifests, FullManifestHasTheTensorsOfTransformersFiles) {
    for (const char* model : kModels) {
        const Path folder = Path("tests/golden") / model;
        const auto config = read_model_config(folder).value();
        const auto files = formats::SafetensorsFolder::open(folder).value();
        const Manifest manifest = full_manifest(config);
        EXPECT_EQ(manifest.tensors().size(), files.tensor_count()) << model;
        for (const auto& spec : manifest.tensors()) {
            const auto* tensor = files.find(spec.name);
            ASSERT_NE(tensor, nullptr) << model << " " << spec.name;
            EXPECT_EQ(tensor->shape, spec.shape) << model << " " << spec.name;
        }
    }
}

// The same for adapters, and the reader restores our order.
TEST(Manifests, LoraManifestIsThatOfPeftsFiles) {
    for (const char* model : kModels) {
        const Path folder = Path("tests/golden") / model;
        const auto config = read_model_config(folder).value();
        for (const char* adapter : {"adapter_all", "adapter_qv", "adapter_attn"}) {
            if (!std::filesystem::exists(folder / adapter)) continue;
            const auto read = formats::read_peft_adapter(folder / adapter).value();
            const auto manifest = lora_manifest(config, read.spec).value();
            EXPECT_EQ(tensor::difference(manifest, read.parameters.manifest()), "") << model << adapter;
        }
    }
}

TEST(Manifests, LoraOrderDoesNotFollowTheTargets) {
    const auto config = read_model_config(kGolden + "gqa").value();
    const auto a = lora_manifest(config, {2, 4, false, {"down_proj", "q_proj"}}).value();
    EXPECT_EQ(a, lora_manifest(config, {2, 4, false, {"q_proj", "down_proj"}}).value());
    EXPECT_EQ(texts(a)[0], "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight [2, 48]");
    EXPECT_EQ(texts(a)[3], "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight [48, 2]");
    EXPECT_EQ(a.tensors().size(), 8u);
}

TEST(Manifests, RefusesTargetsThatAreNotThere) {
    const auto config = read_model_config(kGolden + "gqa").value();
    const std::pair<LoraSpec, std::string> cases[] = {{{2, 4, false, {"q_proj", "c_attn"}}, "'c_attn'"},
                                                      {{2, 4, false, {"q_proj", "q_proj"}}, "twice"},
                                                      {{2, 4, false, {}}, "no target modules"},
                                                      {{0, 4, false, {"q_proj"}}, "rank"}};
    for (const auto& [spec, words] : cases) {
        const auto result = lora_manifest(config, spec);
        ASSERT_FALSE(result.has_value());
        EXPECT_EQ(result.error().code, Errc::InvalidArgument);
        EXPECT_NE(result.error().message.find(words), std::string::npos) << result.error().message;
    }
}

TEST(Manifests, LoraStartsAsPeftStartsIt) {
    const auto config = read_model_config(kGolden + "gqa").value();
    const auto manifest = lora_manifest(config, {16, 32, false, {"q_proj", "down_proj"}}).value();
    const auto start = initial_lora(manifest, 1);
    for (std::size_t i = 0; i < manifest.tensors().size(); i += 2) {
        const double bound = 1.0 / std::sqrt(static_cast<double>(manifest.tensors()[i].shape[1]));
        const auto a = start.tensor(i);
        EXPECT_LE(*std::max_element(a.begin(), a.end()), bound);
        EXPECT_GE(*std::min_element(a.begin(), a.end()), -bound);
        EXPECT_NEAR(deviation(a), bound / std::sqrt(3.0), 0.1 * bound);  // that of a uniform distribution
        EXPECT_EQ(deviation(start.tensor(i + 1)), 0.0);
    }
    EXPECT_EQ(start, initial_lora(manifest, 1));
    EXPECT_NE(start, initial_lora(manifest, 2));
    EXPECT_NE(start.tensor(0)[0], start.tensor(4)[0]) << "layers share a stream";
}

TEST(Manifests, FullModelStartsWithScaledNormals) {
    const auto config = read_model_config(kGolden + "tied_bias").value();
    const auto start = initial_full(config, 1);
    const auto of = [&](const std::string& name) {
        return start.tensor(start.manifest().find(name).value());
    };
    EXPECT_NEAR(deviation(of("model.embed_tokens.weight")), 0.02, 0.001);
    EXPECT_NEAR(deviation(of("model.layers.1.self_attn.q_proj.weight")), 0.02, 0.002);
    EXPECT_NEAR(deviation(of("model.layers.1.self_attn.o_proj.weight")), 0.02 / std::sqrt(6.0), 0.001);
    EXPECT_NEAR(deviation(of("model.layers.1.mlp.down_proj.weight")), 0.02 / std::sqrt(6.0), 0.001);
    EXPECT_EQ(deviation(of("model.layers.2.self_attn.o_proj.bias")), 0.0);
    for (const char* norm : {"model.norm.weight", "model.layers.0.input_layernorm.weight"}) {
        for (const float value : of(norm)) EXPECT_EQ(value, 1.0F);
    }
    EXPECT_EQ(start, initial_full(config, 1));
}

}  // namespace
}  // namespace fedllm::client::model
