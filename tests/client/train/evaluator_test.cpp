#include "client/train/evaluator.hpp"

#include <gtest/gtest.h>

#include "tests/client/engine/tiny_model.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::client::train {
namespace {

using namespace engine::testing;

class EvaluatorTest : public ::testing::Test {
protected:
    EvaluatorTest() {
        model::write_model_folder(folder.path(), config, random_full(config, 3), model::WeightsFormat::F32)
            .value();
        base.emplace(model::BaseModel::load(folder.path()).value());
        Rng rng(1, "lengths");
        for (std::size_t i = 0; i < 40; ++i) {
            const OwnedBatch text = random_batch(1, 1 + rng.below(17), config.vocab, i);
            examples.push_back({text.tokens, text.targets});
        }
    }
    // Each text in a batch of its own.
    std::vector<double> alone(const tensor::ParamSet& params, const tensor::LoraScales& scales) {
        auto network = engine::Network::create(config, base->weights(), params.manifest(), scales).value();
        auto transformer = engine::Transformer::create(pool, network, {1, 17}).value();
        std::vector<double> sums;
        for (const auto& example : examples) {
            OwnedBatch batch{1, example.tokens.size(), example.tokens, example.targets, {}, {}};
            for (std::size_t t = 0; t < example.tokens.size(); ++t) {
                batch.positions.push_back(static_cast<std::int32_t>(t));
                batch.first_key.push_back(0);
            }
            sums.push_back(-transformer.forward_loss(batch.view(), params).value().loss_sum);
        }
        return sums;
    }

    test::TempDir folder;
    model::ModelConfig config = tiny_config();
    std::optional<model::BaseModel> base;
    kernels::ThreadPool pool{2};
    std::vector<data::Example> examples;
};

TEST_F(EvaluatorTest, PackedTextsScoreAsAlone) {
    const auto spec = all_targets();
    const auto lora = random_lora(config, spec, 9);
    const tensor::ParamSet none;
    for (const tensor::ParamSet* params : {&none, &lora}) {
        auto evaluator = Evaluator::create(*base, params->manifest(), spec, 17, pool).value();
        const auto sums = evaluator.log_likelihoods(*params, examples).value();
        const auto expected = alone(*params, spec);
        double loss = 0;
        for (std::size_t i = 0; i < sums.size(); ++i) {
            EXPECT_NEAR(sums[i], expected[i], 1e-4 * (1 + std::abs(expected[i]))) << i;
            loss -= sums[i];
        }
        const EvalOutcome outcome = evaluator.evaluate(*params, examples).value();
        EXPECT_DOUBLE_EQ(outcome.loss_sum, loss);
        std::size_t tokens = 0;
        for (const auto& example : examples) {
            for (const std::int32_t target : example.targets) tokens += target != data::kIgnoreIndex;
        }
        EXPECT_EQ(outcome.tokens, tokens);
    }
}

TEST_F(EvaluatorTest, TextsThatDifferInTheLastTargetAloneShareTheirTokens) {
    std::vector<data::Example> choices;
    for (std::size_t question = 0; question < 90; ++question) {
        for (std::int32_t letter = 0; letter < 3; ++letter) {
            choices.push_back(examples[question % 7]);
            choices.back().tokens[0] = static_cast<std::int32_t>(question);
            auto& targets = choices.back().targets;
            std::fill(targets.begin(), targets.end() - 1, data::kIgnoreIndex);
            targets.back() = static_cast<std::int32_t>(question) + 20 * letter;
        }
    }
    choices.push_back(examples[0]);
    examples = choices;
    auto evaluator = Evaluator::create(*base, {}, 1.0, 17, pool).value();
    const auto sums = evaluator.log_likelihoods({}, examples).value();
    const auto expected = alone({}, 1.0);
    for (std::size_t i = 0; i < sums.size(); ++i) {
        EXPECT_NEAR(sums[i], expected[i], 1e-4 * (1 + std::abs(expected[i]))) << i;
    }
    examples[4].targets.back() = static_cast<std::int32_t>(config.vocab);
    EXPECT_EQ(evaluator.log_likelihoods({}, examples).error().code, Errc::InvalidData);
}

TEST_F(EvaluatorTest, ModulesMayHaveTheirOwnRankAndScale) {
    const std::string q = "base_model.model.model.layers.1.self_attn.q_proj.";
    tensor::LoraSpec spec{.rank = 2, .alpha = 4, .rslora = true, .target_modules = {"q_proj"}};
    spec.modules = {{"model.layers.1.self_attn.q_proj", 5, 7}};
    tensor::ParamSet params(tensor::Manifest::create({{q + "lora_A.weight", {5, config.hidden}},
                                                      {q + "lora_B.weight", {config.query_width(), 5}}})
                                .value());
    Rng rng(4, "lora");
    for (float& value : params.values()) value = 0.3F * rng.normal();
    auto evaluator = Evaluator::create(*base, params.manifest(), spec, 17, pool).value();
    const auto sums = evaluator.log_likelihoods(params, examples).value();
    const auto expected = alone(params, 7 / std::sqrt(5.0));
    const auto other = alone(params, spec.scale());
    double difference = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
        EXPECT_NEAR(sums[i], expected[i], 1e-4 * (1 + std::abs(expected[i]))) << i;
        difference += std::abs(other[i] - expected[i]);
    }
    EXPECT_GT(difference, 0.1);
}

TEST_F(EvaluatorTest, RefusesWhatIsTooLong) {
    EXPECT_EQ(Evaluator::create(*base, {}, 1.0, config.context + 1, pool).error().code,
              Errc::InvalidArgument);
    auto evaluator = Evaluator::create(*base, {}, 1.0, 5, pool).value();
    EXPECT_EQ(evaluator.log_likelihoods({}, examples).error().code, Errc::InvalidData);
    const std::vector<data::Example> empty(1);
    EXPECT_EQ(evaluator.log_likelihoods({}, empty).error().code, Errc::InvalidData);
}

}  // namespace
}  // namespace fedllm::client::train
