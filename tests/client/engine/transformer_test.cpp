// The engine against itself: finite differences, packing, threads, memory. The engine against PyTorch is
// golden_test.cpp.
#include "client/engine/transformer.hpp"

#include <gtest/gtest.h>

#include <optional>

#include "client/engine/decoder.hpp"
#include "tests/client/engine/allocation_counter.hpp"
#include "tests/client/engine/tiny_model.hpp"

namespace fedllm::client::engine {
namespace {

using namespace testing;
using tensor::ParamSet;

struct Case {
    const char* name;
    bool tied, attention_bias, mlp_bias, lora;
};
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

class TransformerCase : public ::testing::TestWithParam<Case> {
protected:
    void SetUp() override {
        config = tiny_config();
        config.tied_head = GetParam().tied;
        config.attention_bias = GetParam().attention_bias;
        config.mlp_bias = GetParam().mlp_bias;
        base = random_full(config, 5);
        if (GetParam().lora) {
            const auto spec = all_targets();
            params = random_lora(config, spec, 6);
            network.emplace(
                Network::create(config, model::weights_of(config, base), params.manifest(), spec.scale())
                    .value());
        } else {
            params = base;
            network.emplace(Network::create(config, {}, params.manifest()).value());
        }
        batch = random_batch(2, 19, config.vocab, 7);
    }
    Transformer make(kernels::ThreadPool& pool) {
        return Transformer::create(pool, *network, {batch.rows, batch.tokens_per_row}).value();
    }

    model::ModelConfig config;
    ParamSet base, params;
    std::optional<Network> network;
    OwnedBatch batch;
};

INSTANTIATE_TEST_SUITE_P(Models, TransformerCase,
                         ::testing::Values(Case{"lora", false, false, false, true},
                                           Case{"lora_biased", true, true, true, true},
                                           Case{"full", false, false, false, false},
                                           Case{"full_tied_biased", true, true, true, false}),
                         [](const auto& tested) { return tested.param.name; });

// One random direction per tensor: g . d against the central difference of the loss along d.
TEST_P(TransformerCase, GradientsAgreeWithFiniteDifferences) {
    kernels::ThreadPool pool(2);
    Transformer transformer = make(pool);
    ParamSet gradients(params.manifest());
    const StepResult result = transformer.forward_backward(batch.view(), params, gradients, 1.0F).value();
    EXPECT_EQ(result.tokens, transformer.losses().size());
    EXPECT_EQ(result.loss_sum, transformer.forward_loss(batch.view(), params).value().loss_sum);
    for (std::size_t i = 0; i < params.manifest().tensors().size(); ++i) {
        Rng rng(11, params.manifest().tensors()[i].name);
        std::vector<float> direction(params.tensor(i).size());
        double norm = 0;
        for (float& d : direction) norm += std::pow(d = rng.normal(), 2);
        const double step = 2e-2 / std::sqrt(norm);
        double expected = 0;
        const auto moved = [&](double factor) {
            ParamSet there = params;
            for (std::size_t j = 0; j < direction.size(); ++j) {
                there.tensor(i)[j] += static_cast<float>(factor * step * direction[j]);
            }
            return transformer.forward_loss(batch.view(), there).value().loss_sum;
        };
        // Fourth order, so that the step can be large against rounding in f32.
        const double slope = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * step);
        double size = 0;
        for (std::size_t j = 0; j < direction.size(); ++j) {
            expected += static_cast<double>(direction[j]) * gradients.tensor(i)[j];
            size += std::pow(gradients.tensor(i)[j], 2);
        }
        EXPECT_GT(size, 0) << params.manifest().tensors()[i].name;
        EXPECT_NEAR(slope, expected, 4e-3 * std::sqrt(size) + 2e-3 * std::abs(expected))
            << params.manifest().tensors()[i].name;
    }
}

TEST_P(TransformerCase, SameBitsForAnyNumberOfThreads) {
    ParamSet one(params.manifest()), many(params.manifest());
    kernels::ThreadPool single(1), several(5);
    Transformer a = make(single), b = make(several);
    const auto loss_a = a.forward_backward(batch.view(), params, one, 0.5F).value().loss_sum;
    const auto loss_b = b.forward_backward(batch.view(), params, many, 0.5F).value().loss_sum;
    EXPECT_EQ(loss_a, loss_b);
    EXPECT_TRUE(one == many);
}

TEST_P(TransformerCase, AStepAllocatesNothing) {
    kernels::ThreadPool pool(2);
    Transformer transformer = make(pool);
    ParamSet gradients(params.manifest());
    const std::size_t before = testing::allocations();
    const auto result = transformer.forward_backward(batch.view(), params, gradients, 1.0F);
    EXPECT_EQ(testing::allocations(), before);
    EXPECT_TRUE(result.has_value());
    Transformer again =
        Transformer::create(pool, *network, {batch.rows, batch.tokens_per_row, Keep::LayerInputs}).value();
    const std::size_t start = testing::allocations();
    const auto recomputed = again.forward_backward(batch.view(), params, gradients, 1.0F);
    EXPECT_EQ(testing::allocations(), start);
    EXPECT_TRUE(recomputed.has_value());
}

TEST_P(TransformerCase, GradientsAccumulateAndScale) {
    kernels::ThreadPool pool(2);
    Transformer transformer = make(pool);
    ParamSet whole(params.manifest()), parts(params.manifest());
    const auto view = batch.view();
    (void)transformer.forward_backward(view, params, whole, 2.0F).value();
    double loss = 0;
    for (std::size_t row = 0; row < batch.rows; ++row) {
        loss += transformer.forward_backward(view.slice(row, 1), params, parts, 2.0F).value().loss_sum;
    }
    EXPECT_NEAR(loss, transformer.forward_loss(view, params).value().loss_sum, 1e-3);
    float largest = 0;
    for (const float g : whole.values()) largest = std::max(largest, std::abs(g));
    for (std::size_t i = 0; i < whole.values().size(); ++i) {
        ASSERT_NEAR(whole.values()[i], parts.values()[i], 1e-5 * largest);
    }
}

// Two documents in one row cost what they cost in rows of their own.
TEST_P(TransformerCase, PackedDocumentsDoNotSeeEachOther) {
    kernels::ThreadPool pool(2);
    Transformer apart = make(pool);
    const std::size_t t = batch.tokens_per_row;
    OwnedBatch packed = batch;
    packed.rows = 1;
    packed.tokens_per_row = 2 * t;
    for (std::size_t i = t; i < 2 * t; ++i) packed.first_key[i] = static_cast<std::int32_t>(t);
    Transformer together = Transformer::create(pool, *network, {1, 2 * t}).value();
    ParamSet expected(params.manifest()), actual(params.manifest());
    (void)apart.forward_backward(batch.view(), params, expected, 1.0F).value();
    (void)together.forward_backward(packed.view(), params, actual, 1.0F).value();
    ASSERT_EQ(apart.losses().size(), together.losses().size());
    for (std::size_t i = 0; i < apart.losses().size(); ++i) {
        EXPECT_NEAR(apart.losses()[i], together.losses()[i], 2e-5);
    }
    for (std::size_t i = 0; i < expected.values().size(); ++i) {
        ASSERT_NEAR(expected.values()[i], actual.values()[i], 2e-4 + 1e-3 * std::abs(expected.values()[i]));
    }
}

TEST_P(TransformerCase, DecoderGivesTheSameLogits) {
    kernels::ThreadPool pool(2);
    Transformer transformer = Transformer::create(pool, *network, {1, 150}).value();
    const OwnedBatch text = random_batch(1, 150, config.vocab, 9);
    const std::vector<std::int32_t> places{99, 149};
    std::vector<float> expected(2 * config.vocab);
    transformer.logits(text.view(), params, places, kernels::Matrix(expected.data(), 2, config.vocab))
        .value();
    Decoder decoder = Decoder::create(pool, *network, 150).value();
    const std::span tokens(text.tokens);
    const auto agree = [&](std::span<const float> logits, std::size_t row) {
        for (std::size_t v = 0; v < config.vocab; ++v) {
            ASSERT_NEAR(logits[v], expected[row * config.vocab + v], 2e-4) << v;
        }
    };
    agree(decoder.append(tokens.first(100), params).value(), 0);
    for (std::size_t i = 100; i < 149; ++i) ASSERT_TRUE(decoder.append(tokens.subspan(i, 1), params));
    agree(decoder.append(tokens.subspan(149), params).value(), 1);
    EXPECT_EQ(decoder.append(tokens.first(1), params).error().code, Errc::TooLarge);
}

class Partial : public ::testing::Test {
protected:
    model::ModelConfig config = tiny_config();
    ParamSet base = random_full(config, 5);
    OwnedBatch batch = random_batch(2, 19, config.vocab, 7);
    kernels::ThreadPool pool{2};

    // Only these tensors are trained, from their values in `base`.
    ParamSet chosen(const std::vector<std::string>& names) const {
        std::vector<tensor::TensorSpec> specs;
        for (const auto& name : names)
            specs.push_back(base.manifest().tensors()[*base.manifest().find(name)]);
        ParamSet set(tensor::Manifest::create(specs).value());
        for (std::size_t i = 0; i < names.size(); ++i) {
            const auto from = base.tensor(*base.manifest().find(names[i]));
            std::copy(from.begin(), from.end(), set.tensor(i).begin());
        }
        return set;
    }
    ParamSet gradients_of(const ParamSet& params, const model::ModelWeights& weights,
                          Keep keep = Keep::Activations) {
        auto network = Network::create(config, weights, params.manifest()).value();
        auto transformer = Transformer::create(pool, std::move(network), {2, 19, keep}).value();
        ParamSet gradients(params.manifest());
        (void)transformer.forward_backward(batch.view(), params, gradients, 1.0F).value();
        return gradients;
    }
};

// Whatever is chosen, its gradients are those of training everything: the early stop drops nothing.
TEST_F(Partial, StoppingEarlyChangesNoGradient) {
    const ParamSet all = gradients_of(base, {});
    const std::vector<std::vector<std::string>> choices{
        {"model.layers.2.mlp.down_proj.weight"},
        {"model.layers.1.mlp.up_proj.weight"},
        {"model.layers.1.post_attention_layernorm.weight", "lm_head.weight"},
        {"model.layers.1.self_attn.o_proj.weight"},
        {"model.layers.2.self_attn.k_proj.weight", "model.layers.1.mlp.gate_proj.weight"},
        {"model.layers.1.input_layernorm.weight"},
        {"model.layers.0.self_attn.v_proj.weight"},
        {"model.norm.weight"},
        {"lm_head.weight"},
        {"model.embed_tokens.weight"}};
    for (const auto& names : choices) {
        const ParamSet some = gradients_of(chosen(names), model::weights_of(config, base));
        EXPECT_TRUE(some == gradients_of(chosen(names), model::weights_of(config, base), Keep::LayerInputs));
        for (std::size_t i = 0; i < names.size(); ++i) {
            const auto expected = all.tensor(*all.manifest().find(names[i]));
            const auto actual = some.tensor(i);
            EXPECT_TRUE(std::equal(expected.begin(), expected.end(), actual.begin())) << names[i];
        }
    }
}

TEST_F(Partial, TokensBeyondTheVocabularyAreRefused) {
    auto network = Network::create(config, {}, base.manifest()).value();
    auto transformer = Transformer::create(pool, std::move(network), {2, 19}).value();
    const auto code = [&] { return transformer.forward_loss(batch.view(), base).error().code; };
    const OwnedBatch good = batch;
    batch.tokens[7] = static_cast<std::int32_t>(config.vocab);
    EXPECT_EQ(code(), Errc::InvalidData);
    batch = good;
    batch.targets[7] = -1;
    EXPECT_EQ(code(), Errc::InvalidData);
    batch = good;
    batch.positions[7] = 19;
    EXPECT_EQ(code(), Errc::InvalidData);
    batch = good;
    batch.first_key[7] = 8;
    EXPECT_EQ(code(), Errc::InvalidData);
    batch = good;
    EXPECT_TRUE(transformer.forward_loss(batch.view(), base));
}

TEST_F(Partial, MissingWeightsAreNamed) {
    const auto refused = Network::create(config, {}, chosen({"model.norm.weight"}).manifest());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::InvalidModel);
    EXPECT_NE(refused.error().message.find("model.embed_tokens.weight"), std::string::npos);
}

TEST_F(Partial, NothingCountedIsNoLoss) {
    auto network = Network::create(config, {}, base.manifest()).value();
    auto transformer = Transformer::create(pool, std::move(network), {2, 19}).value();
    std::fill(batch.targets.begin(), batch.targets.end(), kernels::kIgnoreIndex);
    ParamSet gradients(base.manifest());
    const StepResult result = transformer.forward_backward(batch.view(), base, gradients, 1.0F).value();
    EXPECT_EQ(result.tokens, 0U);
    EXPECT_EQ(result.loss_sum, 0.0);
    EXPECT_TRUE(gradients == ParamSet(base.manifest()));
}

}  // namespace
}  // namespace fedllm::client::engine
