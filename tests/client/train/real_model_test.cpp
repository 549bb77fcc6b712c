// Small models trained by others, from the shared assets, against float64 outputs of transformers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>

#include "client/data/tokenizer.hpp"
#include "client/engine/transformer.hpp"
#include "client/model/base_model.hpp"
#include "client/train/generate.hpp"
#include "kernels/cross_entropy/op.hpp"

namespace fedllm::client::train {
namespace {

using nlohmann::json;

Path assets() {
    const char* folder = std::getenv("FEDLLM_ASSETS");
    return folder != nullptr ? folder : "../shared/assets";
}

class RealModel : public ::testing::TestWithParam<const char*> {
protected:
    void SetUp() override {
        const Path models = assets() / "models";
        if (!std::filesystem::exists(models / GetParam())) {
            GTEST_SKIP() << "no " << models / GetParam()
                         << ": set FEDLLM_ASSETS to the folder of shared assets";
        }
        reference = json::parse(read_file(models / "reference_outputs_f64.json").value())[GetParam()];
        base.emplace(model::BaseModel::load(models / GetParam()).value());
        network.emplace(engine::Network::create(base->config(), base->weights(), {}).value());
    }
    engine::Transformer transformer(std::size_t tokens) {
        return engine::Transformer::create(pool, *network, {1, tokens}).value();
    }

    json reference;
    kernels::ThreadPool pool{2};
    std::optional<model::BaseModel> base;
    std::optional<engine::Network> network;
    const tensor::ParamSet nothing;
};

INSTANTIATE_TEST_SUITE_P(Assets, RealModel,
                         ::testing::Values("tinystories-656k", "stories260K", "babyllama-tok105"),
                         [](const auto& tested) {
                             std::string name = tested.param;
                             std::erase(name, '-');
                             return name;
                         });

// A text as one row in which each token predicts the next.
struct Text {
    std::vector<std::int32_t> tokens, targets, positions, first_key;

    explicit Text(std::vector<std::int32_t> ids) : tokens(std::move(ids)) {
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            targets.push_back(i + 1 < tokens.size() ? tokens[i + 1] : kernels::kIgnoreIndex);
            positions.push_back(static_cast<std::int32_t>(i));
            first_key.push_back(0);
        }
    }
    engine::BatchView view() const { return {1, tokens.size(), tokens, targets, positions, first_key}; }
};

TEST_P(RealModel, LossesLogitsAndGreedyTokens) {
    for (const json& c : reference["cases"]) {
        SCOPED_TRACE(c["prompt"].get<std::string>());
        const Text text(c["ids"].get<std::vector<std::int32_t>>());
        auto engine = transformer(text.tokens.size());
        const auto result = engine.forward_loss(text.view(), nothing).value();
        EXPECT_NEAR(result.loss_sum / static_cast<double>(result.tokens), c["mean_nll"].get<double>(), 1e-4);

        const auto expected = c["last_logits"].get<std::vector<double>>();
        std::vector<float> logits(expected.size());
        const std::vector<std::int32_t> last{static_cast<std::int32_t>(text.tokens.size()) - 1};
        engine.logits(text.view(), nothing, last, {logits.data(), 1, logits.size()}).value();
        for (std::size_t v = 0; v < expected.size(); ++v) ASSERT_NEAR(logits[v], expected[v], 2e-3) << v;

        const auto greedy = c["greedy_ids"].get<std::vector<std::int32_t>>();
        const std::span continuation = std::span(greedy).subspan(text.tokens.size());
        const GenerateOptions options{.new_tokens_max = continuation.size(), .stop = {}};
        const auto generated = generate(pool, *network, nothing, text.tokens, options).value();
        EXPECT_TRUE(std::equal(generated.begin(), generated.end(), continuation.begin(), continuation.end()));
    }
}

// Mean loss over the first 200 tokens of 100 stories, as transformers 5.23 computes it from the folder's own
// tokenizer.json. (For two of the models the figure in reference_outputs_f64.json stems from another
// tokenization: its token count cannot be had from tokenizer.json.)
double loss_of_transformers(std::string_view model) {
    if (model == "tinystories-656k") return 3.226118;
    if (model == "stories260K") return 1.559769;
    return 0.698493;
}

TEST_P(RealModel, LossOnRealStories) {
    const auto tokenizer = data::Tokenizer::load_folder(assets() / "models" / GetParam()).value();
    const json stories = json::parse(read_file(assets() / "data/tinystories/tinystories_1000.json").value());
    auto engine = transformer(200);
    double loss = 0;
    std::uint64_t tokens = 0;
    for (std::size_t i = 0; i < 100; ++i) {
        std::vector<std::int32_t> ids{base->config().bos.value_or(1)};
        const auto body = tokenizer.encode(stories[i].get<std::string>());
        ids.insert(ids.end(), body.begin(), body.end());
        ids.resize(std::min<std::size_t>(ids.size(), 200));
        const auto result = engine.forward_loss(Text(ids).view(), nothing).value();
        loss += result.loss_sum;
        tokens += result.tokens;
    }
    EXPECT_NEAR(loss / static_cast<double>(tokens), loss_of_transformers(GetParam()), 1e-3);
}

}  // namespace
}  // namespace fedllm::client::train
