// The engine against PyTorch, transformers and peft: the generators in tests/golden say what the files hold.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "client/engine/decoder.hpp"
#include "client/engine/transformer.hpp"
#include "client/model/base_model.hpp"
#include "client/model/manifests.hpp"
#include "common/formats/safetensors.hpp"
#include "tests/client/engine/tiny_model.hpp"

namespace fedllm::client::engine {
namespace {

using formats::SafetensorsFile;
using tensor::ParamSet;
using testing::OwnedBatch;

constexpr double kTolerance = 1e-4;

struct Case {
    const char* model;  // folder in tests/golden
    const char* run;    // "all", "qv", "attn" or "full"
    bool gradients = true;
};
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.model << "/" << c.run; }

std::vector<std::int32_t> integers(const formats::TensorInfo& info) {
    std::vector<std::int32_t> values(info.elements());
    std::memcpy(values.data(), info.bytes.data(), info.bytes.size());
    return values;
}

class Golden : public ::testing::TestWithParam<Case> {
protected:
    void SetUp() override {
        const Path folder = Path("tests/golden") / GetParam().model;
        model.emplace(model::BaseModel::load(folder).value());
        expected.emplace(SafetensorsFile::open(folder / "expected.safetensors").value());
        if (run() == "full") {
            params = model::full_parameters(*model);
        } else {
            load_adapter(folder / ("adapter_" + run()));
        }
        network.emplace(Network::create(model->config(), model->weights(), params.manifest(), scale).value());
        const auto tokens = expected->find("tokens");
        batch = {2, tokens->shape[1], integers(*tokens), integers(*expected->find("targets")), {}, {}};
        for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
            batch.positions.push_back(static_cast<std::int32_t>(i % batch.tokens_per_row));
            batch.first_key.push_back(0);
        }
        transformer.emplace(Transformer::create(pool, *network, {2, batch.tokens_per_row}).value());
    }

    std::string run() const { return GetParam().run; }
    std::vector<float> values(const std::string& name) const {
        return formats::read_floats(*expected->find(run() + "." + name)).value();
    }

    void load_adapter(const Path& folder) {
        const SafetensorsFile file = SafetensorsFile::open(folder / "adapter_model.safetensors").value();
        std::vector<tensor::TensorSpec> specs;
        for (const auto& info : file.tensors()) specs.push_back({info.name, info.shape});
        params = ParamSet(tensor::Manifest::create(specs).value());
        for (std::size_t i = 0; i < specs.size(); ++i) {
            formats::read_floats(file.tensors()[i], params.tensor(i)).value();
        }
        const bool rslora = std::string_view(GetParam().model) == "llama/long_rope" && run() == "qv";
        scale = tensor::LoraSpec{.rank = 4, .alpha = 8, .rslora = rslora, .target_modules = {}}.scale();
    }

    std::optional<model::BaseModel> model;
    std::optional<SafetensorsFile> expected;
    ParamSet params;
    double scale = 1;
    kernels::ThreadPool pool{2};
    std::optional<Network> network;
    std::optional<Transformer> transformer;
    OwnedBatch batch;
};

INSTANTIATE_TEST_SUITE_P(
    Models, Golden,
    ::testing::Values(Case{"llama/gqa", "all"}, Case{"llama/gqa", "qv"}, Case{"llama/gqa", "full"},
                      Case{"llama/tied_bias", "all"}, Case{"llama/tied_bias", "qv"},
                      Case{"llama/tied_bias", "full"}, Case{"llama/long_rope", "all"},
                      Case{"llama/long_rope", "qv"}, Case{"llama/long_rope", "full", false},
                      Case{"families/llama3", "all"}, Case{"families/llama3", "full", false},
                      Case{"families/mistral", "all"}, Case{"families/mistral", "full", false},
                      Case{"families/qwen2", "all"}, Case{"families/qwen2", "full", false},
                      Case{"families/qwen3", "all"}, Case{"families/qwen3", "full"},
                      Case{"families/gpt2", "all"}, Case{"families/gpt2", "attn"},
                      Case{"families/gpt2", "full"}),
    [](const auto& tested) {
        std::string name = std::string(tested.param.model) + "_" + tested.param.run;
        std::replace(name.begin(), name.end(), '/', '_');
        return name;
    });

// || actual - expected || / || expected ||.
double relative(std::span<const float> actual, std::span<const float> wanted) {
    double difference = 0;
    double size = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        difference += std::pow(static_cast<double>(actual[i]) - wanted[i], 2);
        size += std::pow(wanted[i], 2);
    }
    return std::sqrt(difference / size);
}

TEST_P(Golden, LossAndLogits) {
    const StepResult result = transformer->forward_loss(batch.view(), params).value();
    const double loss = values("loss")[0];
    EXPECT_NEAR(result.loss_sum / static_cast<double>(result.tokens), loss, kTolerance * loss);
    const auto t = static_cast<std::int32_t>(batch.tokens_per_row);
    const std::size_t vocab = model->config().vocab;
    const std::vector<float> wanted = values("logits_last");
    std::vector<float> logits(wanted.size());
    transformer->logits(batch.view(), params, std::vector{t - 1, 2 * t - 1}, {logits.data(), 2, vocab})
        .value();
    EXPECT_LT(relative(logits, wanted), kTolerance);
    const float largest = std::abs(*std::max_element(
        wanted.begin(), wanted.end(), [](float a, float b) { return std::abs(a) < std::abs(b); }));
    for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(logits[i], wanted[i], kTolerance * largest);
}

TEST_P(Golden, EveryGradient) {
    if (!GetParam().gradients) GTEST_SKIP() << "the golden file has no gradients for this run, to stay small";
    ParamSet gradients(params.manifest());
    const auto counted = std::count_if(batch.targets.begin(), batch.targets.end(),
                                       [](std::int32_t target) { return target != kernels::kIgnoreIndex; });
    (void)transformer->forward_backward(batch.view(), params, gradients, 1.0F / static_cast<float>(counted))
        .value();
    for (std::size_t i = 0; i < params.manifest().tensors().size(); ++i) {
        const std::string& name = params.manifest().tensors()[i].name;
        const std::vector<float> wanted = values("grad." + name);
        EXPECT_LT(relative(gradients.tensor(i), wanted), kTolerance) << name;
    }
}

// Keeping less changes memory and time, and no bit.
TEST_P(Golden, LayersComputedAgainGiveTheSameBits) {
    const Limits all{2, batch.tokens_per_row}, inputs{2, batch.tokens_per_row, Keep::LayerInputs};
    EXPECT_LT(Transformer::buffer_bytes(*network, inputs), Transformer::buffer_bytes(*network, all));
    Transformer again = Transformer::create(pool, *network, inputs).value();
    ParamSet kept(params.manifest()), recomputed(params.manifest());
    const StepResult a = transformer->forward_backward(batch.view(), params, kept, 1.0F).value();
    const StepResult b = again.forward_backward(batch.view(), params, recomputed, 1.0F).value();
    EXPECT_EQ(a.loss_sum, b.loss_sum);
    EXPECT_TRUE(kept == recomputed);
    EXPECT_EQ(again.forward_loss(batch.view(), params).value().loss_sum, a.loss_sum);
}

// Token by token with kept keys and values: past the window, and past the context before RoPE was stretched.
TEST_P(Golden, DecoderGivesTheLastLogits) {
    const std::vector<float> wanted = values("logits_last");
    const std::size_t vocab = model->config().vocab;
    for (std::size_t row = 0; row < 2; ++row) {
        Decoder decoder = Decoder::create(pool, *network, batch.tokens_per_row).value();
        const std::span tokens =
            std::span(batch.tokens).subspan(row * batch.tokens_per_row, batch.tokens_per_row);
        ASSERT_TRUE(decoder.append(tokens.first(7), params));
        for (std::size_t i = 7; i + 1 < tokens.size(); ++i) {
            ASSERT_TRUE(decoder.append(tokens.subspan(i, 1), params));
        }
        const auto logits = decoder.append(tokens.last(1), params).value();
        EXPECT_LT(relative(logits, std::span(wanted).subspan(row * vocab, vocab)), kTolerance);
    }
}

// GPT-2 has no position beyond its table, and a Conv1D layer one way to be trained.
TEST(Gpt2, RefusesWhatItCannotCompute) {
    const auto model = model::BaseModel::load("tests/golden/families/gpt2").value();
    kernels::ThreadPool pool(1);
    const auto network = Network::create(model.config(), model.weights(), {}).value();
    const auto too_long = Transformer::create(pool, network, {1, 33});
    ASSERT_FALSE(too_long);
    EXPECT_EQ(too_long.error().code, Errc::InvalidArgument);
    EXPECT_TRUE(Transformer::create(pool, network, {1, 32}));

    Decoder decoder = Decoder::create(pool, network, 40).value();
    const std::vector<std::int32_t> tokens(32, 3);
    EXPECT_EQ(decoder.append(std::vector<std::int32_t>(33, 3), {}).error().code, Errc::TooLarge);
    ASSERT_TRUE(decoder.append(tokens, {}));
    EXPECT_EQ(decoder.append(std::span(tokens).first(1), {}).error().code, Errc::TooLarge);

    const std::string layer = "transformer.h.1.mlp.c_fc";
    const auto both = tensor::Manifest::create({{layer + ".weight", {24, 96}},
                                                {"base_model.model." + layer + ".lora_A.weight", {2, 24}},
                                                {"base_model.model." + layer + ".lora_B.weight", {96, 2}}});
    const auto refused = Network::create(model.config(), model.weights(), both.value());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::Unsupported);
    EXPECT_NE(refused.error().message.find(layer), std::string::npos) << refused.error().message;
    const auto turned = tensor::Manifest::create({{layer + ".weight", {96, 24}}});
    EXPECT_EQ(Network::create(model.config(), model.weights(), turned.value()).error().code,
              Errc::ManifestMismatch);
}

}  // namespace
}  // namespace fedllm::client::engine
