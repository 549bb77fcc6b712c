#include "client/model/model_config.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/safetensors_bytes.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::client::model {
namespace {

using nlohmann::json;

json small() {
    return {{"model_type", "llama"}, {"hidden_size", 64},       {"intermediate_size", 172},
            {"vocab_size", 512},     {"num_hidden_layers", 5},  {"num_attention_heads", 8},
            {"rms_norm_eps", 1e-5},  {"num_key_value_heads", 4}};
}

Result<ModelConfig> parse(const json& value) { return parse_model_config(value.dump(), "m/config.json"); }

json with(const std::string& key, const json& value) {
    json changed = small();
    changed[key] = value;
    return changed;
}

json without(const std::string& key) {
    json changed = small();
    changed.erase(key);
    return changed;
}

TEST(ModelConfig, ReadsAllFieldsAndTransformersDefaults) {
    const ModelConfig config = parse(small()).value();
    const ModelConfig expected{.hidden = 64,
                               .layers = 5,
                               .heads = 8,
                               .kv_heads = 4,
                               .head_size = 8,
                               .intermediate = 172,
                               .vocab = 512,
                               .context = 2048,
                               .norm_epsilon = 1e-5F,
                               .rope_theta = 10000,
                               .bos = 1,
                               .eos = 2};
    EXPECT_EQ(config, expected);
    EXPECT_EQ(config.query_width(), 64u);
    EXPECT_EQ(config.key_width(), 32u);

    json full = small();
    full.update({{"head_dim", 12},
                 {"max_position_embeddings", 96},
                 {"rope_theta", 500000},
                 {"bos_token_id", nullptr},
                 {"eos_token_id", json::array({7, 9})},
                 {"tie_word_embeddings", true},
                 {"attention_bias", true},
                 {"mlp_bias", true},
                 {"rope_scaling", nullptr},
                 {"sliding_window", nullptr},
                 {"architectures", json::array({"LlamaForCausalLM"})},
                 {"torch_dtype", "bfloat16"}});
    const ModelConfig read = parse(full).value();
    EXPECT_EQ(read.head_size, 12u);
    EXPECT_EQ(read.context, 96u);
    EXPECT_EQ(read.rope_theta, 500000.0);
    EXPECT_EQ(read.bos, std::nullopt);
    EXPECT_EQ(read.eos, 7);
    EXPECT_TRUE(read.tied_head && read.attention_bias && read.mlp_bias);
}

TEST(ModelConfig, ReadsRopeOfBothTransformersGenerations) {
    EXPECT_EQ(
        parse(with("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 2e5}})).value().rope_theta,
        2e5);
    json both = with("rope_scaling", {{"type", "default"}});
    both["rope_theta"] = 3e5;
    EXPECT_EQ(parse(both).value().rope_theta, 3e5);
}

TEST(ModelConfig, AbsentKeyValueHeadsMeanAsManyAsQueryHeads) {
    EXPECT_EQ(parse(without("num_key_value_heads")).value().kv_heads, 8u);
    json mistral = without("num_key_value_heads");
    mistral.update({{"model_type", "mistral"}, {"sliding_window", nullptr}, {"num_attention_heads", 16}});
    EXPECT_EQ(parse(mistral).value().kv_heads, 8u);  // MistralConfig's default
}

struct Refused {
    std::string key;
    json value;
    Errc code;
    std::string words;
};

TEST(ModelConfig, RefusesWhatTheEngineDoesNotComputeAndNamesTheField) {
    const Refused cases[] = {
        {"model_type", "mixtral", Errc::Unsupported,
         "supported are 'llama', 'mistral', 'qwen2', 'qwen3' and 'gpt2'"},
        {"model_type", nullptr, Errc::InvalidModel, "missing"},
        {"architectures", json::array({"LlamaForSequenceClassification"}), Errc::Unsupported,
         "LlamaForCausalLM"},
        {"hidden_act", "gelu", Errc::Unsupported, "silu"},
        {"quantization_config", {{"bits", 4}}, Errc::Unsupported, "supported is 'bitsandbytes'"},
        {"quantization_config", {{"quant_method", "gptq"}}, Errc::Unsupported, "gptq"},
        {"quantization_config", {{"quant_method", "awq"}}, Errc::Unsupported, "awq"},
        {"quantization_config", {{"quant_method", 4}}, Errc::Unsupported, "quant_method"},
        {"quantization_config", "fp8", Errc::Unsupported, "fp8"},
        {"sliding_window", 4096, Errc::Unsupported, "null"},
        {"rope_scaling", {{"rope_type", "dynamic"}}, Errc::Unsupported, "'default', 'linear' and 'llama3'"},
        {"rope_parameters", {{"rope_type", "yarn"}}, Errc::Unsupported, "yarn"},
        {"rope_parameters", 7, Errc::InvalidModel, "object"},
        {"rope_parameters", {{"partial_rotary_factor", 0.5}}, Errc::Unsupported, "partial_rotary_factor"},
        {"partial_rotary_factor", 0.5, Errc::Unsupported, "must be 1"},
        {"rope_theta", "big", Errc::InvalidModel, "number"},
        {"rope_theta", 0, Errc::InvalidModel, "number"},
        {"rms_norm_eps", -1, Errc::InvalidModel, "number"},
        {"hidden_size", 0, Errc::InvalidModel, "whole number"},
        {"hidden_size", 64.5, Errc::InvalidModel, "whole number"},
        {"hidden_size", -64, Errc::InvalidModel, "whole number"},
        {"hidden_size", 1ULL << 60, Errc::InvalidModel, "whole number"},
        {"hidden_size", nullptr, Errc::InvalidModel, "missing"},
        {"hidden_size", 63, Errc::InvalidModel, "multiple"},
        {"num_attention_heads", 7, Errc::InvalidModel, "multiple of num_key_value_heads (4)"},
        {"num_key_value_heads", 3, Errc::InvalidModel, "multiple"},
        {"head_dim", 9, Errc::InvalidModel, "even"},
        {"tie_word_embeddings", 1, Errc::InvalidModel, "true or false"},
        {"eos_token_id", 512, Errc::InvalidModel, "below vocab_size"},
        {"bos_token_id", "<s>", Errc::InvalidModel, "token id"},
        {"bos_token_id", -1, Errc::InvalidModel, "token id"}};
    for (const Refused& refused : cases) {
        const auto result = parse(with(refused.key, refused.value));
        ASSERT_FALSE(result.has_value()) << refused.key << " " << refused.value;
        EXPECT_EQ(result.error().code, refused.code) << result.error().message;
        EXPECT_TRUE(result.error().message.starts_with("m/config.json: '")) << result.error().message;
        EXPECT_NE(result.error().message.find(refused.words), std::string::npos) << result.error().message;
    }
}

TEST(ModelConfig, RefusesMoreParametersThanCanBeCounted) {
    json huge = small();
    huge.update({{"hidden_size", 65536}, {"intermediate_size", 1 << 20}, {"num_hidden_layers", 1024}});
    const auto result = parse(huge);
    ASSERT_FALSE(result.has_value());
    EXPECT_NE(result.error().message.find("2^40"), std::string::npos) << result.error().message;
}

TEST(ModelConfig, RefusesTextThatIsNotAnObject) {
    EXPECT_EQ(parse_model_config("{", "x").error().code, Errc::InvalidFile);
    EXPECT_EQ(parse_model_config("[]", "x").error().code, Errc::InvalidModel);
    const test::TempDir folder;
    const auto missing = read_model_config(folder.path());
    EXPECT_EQ(missing.error().code, Errc::NotFound);
    EXPECT_NE(missing.error().message.find("config.json"), std::string::npos);
}

TEST(ModelConfig, WhatIsWrittenReadsBack) {
    ModelConfig config = parse(small()).value();
    EXPECT_EQ(parse_model_config(model_config_json(config, "bfloat16"), "x").value(), config);
    config.tied_head = config.attention_bias = config.mlp_bias = true;
    config.head_size = 20;
    config.rope_theta = 500000;
    config.norm_epsilon = 1e-6F;
    config.bos = std::nullopt;
    const std::string text = model_config_json(config, "float32");
    EXPECT_EQ(parse_model_config(text, "x").value(), config);
    EXPECT_NE(text.find("\"rms_norm_eps\": 1e-06"), std::string::npos) << text;

    json mistral = with("sliding_window", nullptr);
    mistral["model_type"] = "mistral";
    const ModelConfig other = parse(mistral).value();
    EXPECT_EQ(parse_model_config(model_config_json(other, "float32"), "x").value(), other);
}

}  // namespace
}  // namespace fedllm::client::model
