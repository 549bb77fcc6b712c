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

json scaled(json scaling) {
    scaling.update({{"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}}, true);
    return with("rope_scaling", scaling);
}

TEST(ModelConfig, ReadsScaledRope) {
    const auto linear = parse(with("rope_scaling", {{"type", "linear"}, {"factor", 2.5}})).value();
    EXPECT_EQ(linear.rope_scaling, (RopeScaling{.kind = RopeScaling::Kind::Linear, .factor = 2.5}));
    const RopeScaling expected{RopeScaling::Kind::Llama3, 8.0, 1.0, 4.0, 512};
    const json llama3 = scaled({{"rope_type", "llama3"}, {"original_max_position_embeddings", 512}});
    EXPECT_EQ(parse(llama3).value().rope_scaling, expected);
    // As transformers: the context where the original one is not given, and the outer field before the inner.
    EXPECT_EQ(parse(scaled({{"rope_type", "llama3"}})).value().rope_scaling.original_context, 2048u);
    json outer = llama3;
    outer["original_max_position_embeddings"] = 256;
    EXPECT_EQ(parse(outer).value().rope_scaling.original_context, 256u);
    EXPECT_EQ(parse_model_config(model_config_json(parse(llama3).value(), "float32"), "x").value(),
              parse(llama3).value());

    for (const char* key : {"factor", "low_freq_factor", "high_freq_factor"}) {
        json lacking = llama3;
        lacking["rope_scaling"].erase(key);
        const auto result = parse(lacking);
        ASSERT_FALSE(result.has_value()) << key;
        EXPECT_NE(result.error().message.find(std::string("'") + key + "' is missing"), std::string::npos)
            << result.error().message;
    }
    json crossed = llama3;
    crossed["rope_scaling"]["low_freq_factor"] = 4.0;
    EXPECT_EQ(parse(crossed).error().code, Errc::InvalidModel);
    EXPECT_EQ(parse(with("rope_parameters", {{"full_attention", {{"rope_type", "default"}}}})).error().code,
              Errc::Unsupported);
}

json of_family(const char* type) {
    json family = small();
    family["model_type"] = type;
    return family;
}

TEST(ModelConfig, ReadsWindowsAsEachFamilyMeansThem) {
    json mistral = of_family("mistral");
    EXPECT_EQ(parse(mistral).value().window, 4096u);  // MistralConfig's default
    mistral["sliding_window"] = 7;
    EXPECT_EQ(parse(mistral).value().window_of(0), 7u);
    mistral["sliding_window"] = nullptr;
    EXPECT_EQ(parse(mistral).value().window, 0u);

    for (const char* type : {"qwen2", "qwen3"}) {
        json qwen = of_family(type);
        qwen.update({{"sliding_window", 9}, {"max_window_layers", 3}});
        EXPECT_EQ(parse(qwen).value().window, 0u) << "use_sliding_window is false unless given";
        qwen["use_sliding_window"] = true;
        const ModelConfig config = parse(qwen).value();
        EXPECT_EQ(config.window_of(2), 0u);
        EXPECT_EQ(config.window_of(3), 9u);
        EXPECT_EQ(parse_model_config(model_config_json(config, "float32"), "x").value(), config);
        qwen.erase("sliding_window");
        EXPECT_EQ(parse(qwen).value().window, 4096u);
        qwen.erase("max_window_layers");
        EXPECT_EQ(parse(qwen).value().window, 0u) << "from layer 28, and there are 5";

        const std::string full = "full_attention", sliding = "sliding_attention";
        qwen["layer_types"] = {full, full, sliding, sliding, sliding};
        EXPECT_EQ(parse(qwen).value().window_from, 2u);
        qwen["layer_types"] = {full, sliding, full, sliding, sliding};
        EXPECT_EQ(parse(qwen).error().code, Errc::Unsupported);
        qwen["layer_types"] = {full, sliding};
        EXPECT_EQ(parse(qwen).error().code, Errc::Unsupported);
        qwen["layer_types"] = {full, full, full, full, sliding};
        qwen["use_sliding_window"] = false;
        EXPECT_EQ(parse(qwen).error().code, Errc::InvalidModel);
    }
}

TEST(ModelConfig, QwenHasTransformersDefaults) {
    json two = of_family("qwen2");
    EXPECT_EQ(parse(two).value().head_size, 8u);
    EXPECT_EQ(parse(two).value().context, 32768u);
    EXPECT_EQ(parse(two).value().eos, std::nullopt);
    two["attention_bias"] = true;  // means nothing to it
    EXPECT_FALSE(parse(two).value().attention_bias);
    json three = of_family("qwen3");
    EXPECT_EQ(parse(three).value().head_size, 128u);
    three["attention_bias"] = true;
    EXPECT_TRUE(parse(three).value().attention_bias);
}

json gpt2() {
    return {{"model_type", "gpt2"}, {"n_embd", 24}, {"n_layer", 2}, {"n_head", 3}, {"vocab_size", 60000}};
}

TEST(ModelConfig, ReadsGpt2) {
    const ModelConfig config = parse(gpt2()).value();
    EXPECT_EQ(config.family->model_type, "gpt2");
    EXPECT_EQ(config.kv_heads, 3u);
    EXPECT_EQ(config.head_size, 8u);
    EXPECT_EQ(config.intermediate, 96u);
    EXPECT_EQ(config.context, 1024u);
    EXPECT_EQ(config.norm_epsilon, 1e-5F);
    EXPECT_TRUE(config.tied_head);
    EXPECT_EQ(config.eos, 50256);
    EXPECT_EQ(parse_model_config(model_config_json(config, "float32"), "x").value(), config);

    json other = gpt2();
    other.update({{"n_inner", 50}, {"n_positions", 11}, {"vocab_size", 3}, {"tie_word_embeddings", false}});
    EXPECT_EQ(parse(other).value().intermediate, 50u);
    EXPECT_EQ(parse(other).value().context, 11u);
    EXPECT_EQ(parse(other).value().eos, std::nullopt) << "there is no token 50256";
    EXPECT_FALSE(parse(other).value().tied_head);

    const Refused cases[] = {
        {"n_embd", 25, Errc::InvalidModel, "multiple of n_head"},
        {"n_embd", nullptr, Errc::InvalidModel, "missing"},
        {"activation_function", "gelu", Errc::Unsupported, "'gelu_new' and 'gelu_pytorch_tanh'"},
        {"scale_attn_weights", false, Errc::Unsupported, "must be true"},
        {"scale_attn_by_inverse_layer_idx", true, Errc::Unsupported, "must be false"},
        {"add_cross_attention", true, Errc::Unsupported, "must be false"},
        {"architectures", json::array({"GPT2Model"}), Errc::Unsupported, "GPT2LMHeadModel"}};
    for (const Refused& refused : cases) {
        json changed = gpt2();
        changed[refused.key] = refused.value;
        const auto result = parse(changed);
        ASSERT_FALSE(result.has_value()) << refused.key;
        EXPECT_EQ(result.error().code, refused.code) << result.error().message;
        EXPECT_TRUE(result.error().message.starts_with("m/config.json: '" + refused.key))
            << result.error().message;
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
