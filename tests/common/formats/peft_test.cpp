#include "common/formats/peft.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>

#include "common/base/philox.hpp"
#include "common/formats/json.hpp"
#include "common/formats/safetensors.hpp"
#include "tests/support/safetensors_bytes.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::formats {
namespace {

using tensor::LoraSpec;
using tensor::Manifest;
using tensor::ParamSet;
using test::TempDir;
using test::write_bytes;

constexpr std::uint64_t kRank = 2;

// q, v and down of layers 0, 2 and 10, in the order a job lists them; alphabetically 10 would come before 2.
ParamSet small_adapter() {
    std::vector<tensor::TensorSpec> tensors;
    for (const char* layer : {"0", "2", "10"}) {
        for (const char* module : {"self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"}) {
            const std::string name = std::string("base_model.model.model.layers.") + layer + "." + module;
            tensors.push_back({name + ".lora_A.weight", {kRank, 5}});
            tensors.push_back({name + ".lora_B.weight", {3, kRank}});
        }
    }
    ParamSet parameters(Manifest::create(std::move(tensors)).value());
    Rng rng(7, "peft-test");
    for (float& value : parameters.values()) value = rng.normal();
    return parameters;
}

LoraSpec small_spec() { return {kRank, 4.0, false, {"q_proj", "v_proj", "down_proj"}}; }

void change_config(const Path& folder, const std::string& key, const nlohmann::json& value) {
    const Path path = folder / "adapter_config.json";
    auto config = nlohmann::json::parse(read_file(path).value());
    config[key] = value;
    write_bytes(path, config.dump());
}

TEST(Peft, WhatIsWrittenReadsBackInTheSameOrder) {
    const TempDir folder;
    const Path path = folder.path() / "adapter";
    for (const LoraSpec& spec :
         {small_spec(), LoraSpec{kRank, 0.5, true, {"down_proj", "v_proj", "q_proj"}}}) {
        ASSERT_TRUE(write_peft_adapter(path, small_adapter(), spec, "some/base").has_value());
        const LoadedAdapter read = read_peft_adapter(path).value();
        EXPECT_EQ(read.parameters, small_adapter());
        EXPECT_EQ(read.spec, spec);
        EXPECT_EQ(read.base_model, "some/base");
    }
}

TEST(Peft, TheConfigIsPefts) {
    const TempDir folder;
    ASSERT_TRUE(write_peft_adapter(folder.path(), small_adapter(), small_spec(), "b\xff").has_value());
    const auto config = nlohmann::json::parse(read_file(folder.path() / "adapter_config.json").value());
    EXPECT_EQ(config["peft_type"], "LORA");
    EXPECT_EQ(config["task_type"], "CAUSAL_LM");
    EXPECT_EQ(config["r"], 2);
    EXPECT_TRUE(config["lora_alpha"].is_number_integer());
    EXPECT_EQ(config["target_modules"], (std::vector<std::string>{"q_proj", "v_proj", "down_proj"}));
    EXPECT_EQ(config["base_model_name_or_path"], "b\uFFFD");
    const auto file = SafetensorsFile::open(folder.path() / "adapter_model.safetensors").value();
    EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(Peft, TheWriterRefusesASpecThatDoesNotFit) {
    const TempDir folder;
    LoraSpec rank = small_spec();
    rank.rank = 3;
    LoraSpec missing = small_spec();
    missing.target_modules.pop_back();
    LoraSpec extra = small_spec();
    extra.target_modules.push_back("k_proj");
    for (const LoraSpec& spec : {rank, missing, extra}) {
        const auto result = write_peft_adapter(folder.path() / "x", small_adapter(), spec, "b");
        ASSERT_FALSE(result.has_value());
        EXPECT_EQ(result.error().code, Errc::ManifestMismatch) << result.error().message;
    }
    ParamSet names(Manifest::create({{"model.layers.0.self_attn.q_proj.weight", {2, 2}}}).value());
    EXPECT_EQ(write_peft_adapter(folder.path() / "x", names, small_spec(), "b").error().code,
              Errc::ManifestMismatch);
    EXPECT_EQ(write_peft_adapter(folder.path() / "x", ParamSet(), LoraSpec{}, "b").error().code,
              Errc::ManifestMismatch);
    EXPECT_FALSE(std::filesystem::exists(folder.path() / "x"));
}

TEST(Peft, AllLinearBecomesTheModulesFound) {
    const TempDir folder;
    ASSERT_TRUE(write_peft_adapter(folder.path(), small_adapter(), small_spec(), "b").has_value());
    change_config(folder.path(), "target_modules", "all-linear");
    EXPECT_EQ(read_peft_adapter(folder.path()).value().spec, small_spec());
}

TEST(Peft, ARegularExpressionOrAChoiceOfLayersBecomesWholePaths) {
    const std::vector<std::pair<std::string, nlohmann::json>> changes{{"target_modules", ".*(q|v|down)_proj"},
                                                                      {"layers_to_transform", {0, 2, 10}}};
    for (const auto& [key, value] : changes) {
        const TempDir folder;
        ASSERT_TRUE(write_peft_adapter(folder.path(), small_adapter(), small_spec(), "b").has_value());
        change_config(folder.path(), key, value);
        const auto read = read_peft_adapter(folder.path());
        ASSERT_TRUE(read.has_value()) << read.error().message;
        ASSERT_EQ(read->spec.target_modules.size(), 9u);
        EXPECT_EQ(read->spec.target_modules[2], "model.layers.0.mlp.down_proj");
        ASSERT_TRUE(write_peft_adapter(folder.path(), read->parameters, read->spec, "b").has_value());
        EXPECT_EQ(read_peft_adapter(folder.path()).value().spec, read->spec);
    }
}

// q of layer 2 has rank 3 and alpha 9, every v has alpha 1.
TEST(Peft, RankAndAlphaOfSingleModulesGoThere) {
    std::vector<tensor::TensorSpec> tensors;
    for (const char* layer : {"0", "2"}) {
        for (const char* module : {"self_attn.q_proj", "self_attn.v_proj"}) {
            const std::string path = std::string("model.layers.") + layer + "." + module;
            const std::uint64_t rank = path == "model.layers.2.self_attn.q_proj" ? 3 : 2;
            tensors.push_back({"base_model.model." + path + ".lora_A.weight", {rank, 5}});
            tensors.push_back({"base_model.model." + path + ".lora_B.weight", {4, rank}});
        }
    }
    const ParamSet params(Manifest::create(std::move(tensors)).value());
    LoraSpec spec{2, 4, false, {"q_proj", "v_proj"}};
    spec.modules = {{"model.layers.0.self_attn.v_proj", 2, 1},
                    {"model.layers.2.self_attn.q_proj", 3, 9},
                    {"model.layers.2.self_attn.v_proj", 2, 1}};
    const TempDir folder;
    ASSERT_TRUE(write_peft_adapter(folder.path(), params, spec, "b").has_value());
    const auto config = nlohmann::json::parse(read_file(folder.path() / "adapter_config.json").value());
    EXPECT_EQ(config["rank_pattern"], (nlohmann::json{{"model.layers.2.self_attn.q_proj", 3}}));
    EXPECT_EQ(config["alpha_pattern"],
              (nlohmann::json{{"model.layers.2.self_attn.q_proj", 9}, {"v_proj", 1}}));
    const LoadedAdapter read = read_peft_adapter(folder.path()).value();
    EXPECT_EQ(read.spec, spec);
    const tensor::LoraScales scales(read.spec);
    EXPECT_EQ(scales.of("model.layers.0.self_attn.q_proj"), 2.0);
    EXPECT_EQ(scales.of("model.layers.2.self_attn.q_proj"), 3.0);
    EXPECT_EQ(scales.of("model.layers.2.self_attn.v_proj"), 0.5);
}

TEST(Peft, RefusesConfigsBeyondPlainLoraByKey) {
    using nlohmann::json;
    struct Case {
        std::string key;
        json value;
        Errc code;
    };
    const Case cases[] = {{"use_dora", true, Errc::Unsupported},
                          {"bias", "lora_only", Errc::Unsupported},
                          {"lora_bias", true, Errc::Unsupported},
                          {"modules_to_save", json::array({"lm_head"}), Errc::Unsupported},
                          {"rank_pattern", {{"q_proj", 4}}, Errc::ManifestMismatch},
                          {"rank_pattern", {{"q_proj", 2.5}}, Errc::InvalidFile},
                          {"rank_pattern", {{"q_proj", 0}}, Errc::InvalidFile},
                          {"rank_pattern", json::array({4}), Errc::InvalidFile},
                          {"alpha_pattern", {{"q_proj", "4"}}, Errc::InvalidFile},
                          {"alpha_pattern", {{"(?<=q_)proj", 4}}, Errc::Unsupported},
                          {"layer_replication", json::array({json::array({0, 1})}), Errc::Unsupported},
                          {"init_lora_weights", "pissa", Errc::Unsupported},
                          {"peft_type", "IA3", Errc::Unsupported},
                          {"peft_type", nullptr, Errc::Unsupported},
                          {"target_modules", "", Errc::InvalidFile},
                          {"target_modules", json::array(), Errc::InvalidFile},
                          {"target_modules", json::array({1}), Errc::InvalidFile},
                          {"target_modules", nullptr, Errc::InvalidFile},
                          {"r", 0, Errc::InvalidFile},
                          {"r", "2", Errc::InvalidFile},
                          {"r", 4294967298, Errc::InvalidFile},  // 2 in 32 bits
                          {"lora_alpha", nullptr, Errc::InvalidFile},
                          {"lora_alpha", 1e300, Errc::InvalidFile},
                          {"use_rslora", "yes", Errc::InvalidFile},
                          {"r", 3, Errc::ManifestMismatch},
                          {"target_modules", json::array({"q_proj"}), Errc::ManifestMismatch},
                          {"target_modules", json::array({"proj"}), Errc::ManifestMismatch}};
    for (const Case& bad : cases) {
        const TempDir folder;
        ASSERT_TRUE(write_peft_adapter(folder.path(), small_adapter(), small_spec(), "b").has_value());
        change_config(folder.path(), bad.key, bad.value);
        const auto result = read_peft_adapter(folder.path());
        ASSERT_FALSE(result.has_value()) << bad.key << " " << bad.value;
        EXPECT_EQ(result.error().code, bad.code) << bad.key << ": " << result.error().message;
        if (bad.code != Errc::ManifestMismatch) {
            EXPECT_NE(result.error().message.find("adapter_config.json: '" + bad.key + "'"),
                      std::string::npos)
                << result.error().message;
        }
    }
}

TEST(Peft, RefusesTensorsThatAreNotPlainLora) {
    struct Case {
        std::string name;
        std::vector<std::uint64_t> shape;
        Errc code;
    };
    const std::string q = "base_model.model.model.layers.0.self_attn.q_proj.";
    const Case cases[] = {
        {q + "lora_magnitude_vector", {3}, Errc::Unsupported},
        {"base_model.model.model.embed_tokens.lora_embedding_A", {2, 3}, Errc::Unsupported},
        {"base_model.model.model.embed_tokens.base_layer.weight", {2, 3}, Errc::Unsupported},
        {"base_model.model.lm_head.weight", {3, 2}, Errc::InvalidFile},
        {q + "lora_A.weight", {2, 3}, Errc::ManifestMismatch},     // no B
        {q + "lora_B.weight", {3, 2, 1}, Errc::ManifestMismatch},  // three dimensions
        {".lora_A.weight", {2, 3}, Errc::InvalidFile},
        {"base_model.model..lora_A.weight", {2, 3}, Errc::InvalidFile}};
    for (const Case& bad : cases) {
        const TempDir folder;
        ASSERT_TRUE(write_peft_adapter(folder.path(), small_adapter(), small_spec(), "b").has_value());
        const std::vector<float> values(6);
        const std::vector<TensorToWrite> tensors{
            {bad.name, tensor::DType::F32, bad.shape,
             std::as_bytes(std::span(values)).first(bad.shape.size() == 1 ? 12 : 24)}};
        ASSERT_TRUE(write_safetensors(folder.path() / "adapter_model.safetensors", tensors).has_value());
        const auto result = read_peft_adapter(folder.path());
        ASSERT_FALSE(result.has_value()) << bad.name;
        EXPECT_EQ(result.error().code, bad.code) << result.error().message;
        EXPECT_NE(result.error().message.find("adapter_model.safetensors"), std::string::npos)
            << result.error().message;
    }
}

TEST(Peft, RefusesNaNAndNamesTheTensor) {
    const TempDir folder;
    ParamSet adapter = small_adapter();
    adapter.tensor(3)[1] = std::numeric_limits<float>::quiet_NaN();
    ASSERT_TRUE(write_peft_adapter(folder.path(), adapter, small_spec(), "b").has_value());
    const auto result = read_peft_adapter(folder.path());
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code, Errc::NotFinite);
    EXPECT_NE(result.error().message.find(adapter.manifest().tensors()[3].name), std::string::npos);
}

TEST(Peft, MissingFilesAreNamed) {
    const TempDir folder;
    EXPECT_EQ(read_peft_adapter(folder.path()).error().code, Errc::NotFound);
    ASSERT_TRUE(write_peft_adapter(folder.path(), small_adapter(), small_spec(), "b").has_value());
    std::filesystem::remove(folder.path() / "adapter_model.safetensors");
    const auto result = read_peft_adapter(folder.path());
    EXPECT_EQ(result.error().code, Errc::NotFound);
    EXPECT_NE(result.error().message.find("adapter_model.safetensors"), std::string::npos);
}

// Saved by PEFT itself, names sorted alphabetically, target modules from a set (tests/golden says how).
TEST(Peft, ReadsWhatPeftSaved) {
    const auto all = read_peft_adapter("tests/golden/llama/gqa/adapter_all").value();
    EXPECT_EQ(all.spec.rank, 4u);
    EXPECT_EQ(all.spec.scale(), 2.0);
    EXPECT_EQ(all.base_model, "fedllm-golden/gqa");
    const auto tensors = all.parameters.manifest().tensors();
    ASSERT_EQ(tensors.size(), 28u);
    EXPECT_EQ(tensor::describe(tensors[0]),
              "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight [4, 48]");
    EXPECT_EQ(tensor::describe(tensors[13]),
              "base_model.model.model.layers.0.mlp.down_proj.lora_B.weight [48, 4]");
    EXPECT_TRUE(tensors[14].name.starts_with("base_model.model.model.layers.1.self_attn.q_proj.lora_A"));

    const auto rslora = read_peft_adapter("tests/golden/llama/long_rope/adapter_qv").value();
    EXPECT_TRUE(rslora.spec.rslora);
    EXPECT_EQ(rslora.spec.scale(), 4.0);
}

TEST(Peft, ReadsAnAdapterOfAnotherArchitecture) {
    const char* assets = std::getenv("FEDLLM_ASSETS");
    const Path folder = Path(assets ? assets : "../shared/assets") / "adapters/gpt2-causal-r8";
    if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not there; set FEDLLM_ASSETS";
    const auto adapter = read_peft_adapter(folder);
    ASSERT_TRUE(adapter.has_value()) << adapter.error().message;
    EXPECT_EQ(adapter->spec, (LoraSpec{8, 32.0, false, {"c_attn"}}));
    EXPECT_EQ(adapter->base_model, "gpt2");
    const auto tensors = adapter->parameters.manifest().tensors();
    ASSERT_EQ(tensors.size(), 24u);
    EXPECT_EQ(tensor::describe(tensors[5]),
              "base_model.model.transformer.h.2.attn.c_attn.lora_B.weight [2304, 8]");

    const TempDir copy;
    ASSERT_TRUE(write_peft_adapter(copy.path(), adapter->parameters, adapter->spec, "gpt2").has_value());
    const auto config = nlohmann::json::parse(read_file(copy.path() / "adapter_config.json").value());
    EXPECT_EQ(config["fan_in_fan_out"], true);
    EXPECT_EQ(read_peft_adapter(copy.path()).value().parameters, adapter->parameters);
}

}  // namespace
}  // namespace fedllm::formats
