#include "client/train/generate.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "client/engine/decoder.hpp"
#include "client/engine/transformer.hpp"
#include "tests/client/engine/tiny_model.hpp"

namespace fedllm::client::train {
namespace {

using namespace engine::testing;

class Generate : public ::testing::Test {
protected:
    model::ModelConfig config = tiny_config();
    tensor::ParamSet params = random_full(config, 5);
    engine::Network network = engine::Network::create(config, {}, params.manifest()).value();
    kernels::ThreadPool pool{2};
    std::vector<std::int32_t> prompt{3, 1, 4, 1, 5};

    std::vector<std::int32_t> run(const GenerateOptions& options) {
        return generate(pool, network, params, prompt, options).value();
    }
};

TEST_F(Generate, GreedyTakesTheLikeliestToken) {
    const auto text = run({.new_tokens_max = 12, .stop = {}});
    ASSERT_EQ(text.size(), 12U);
    OwnedBatch batch{1,      17,
                     prompt, std::vector<std::int32_t>(17, kernels::kIgnoreIndex),
                     {},     std::vector<std::int32_t>(17, 0)};
    batch.tokens.insert(batch.tokens.end(), text.begin(), text.end());
    std::vector<std::int32_t> places;
    for (std::int32_t i = 0; i < 17; ++i) batch.positions.push_back(i);
    for (std::int32_t i = 4; i < 16; ++i) places.push_back(i);
    auto transformer = engine::Transformer::create(pool, network, {1, 17}).value();
    std::vector<float> logits(12 * config.vocab);
    transformer.logits(batch.view(), params, places, {logits.data(), 12, config.vocab}).value();
    for (std::size_t i = 0; i < 12; ++i) {
        const auto row = logits.begin() + static_cast<std::ptrdiff_t>(i * config.vocab);
        EXPECT_EQ(std::max_element(row, row + static_cast<std::ptrdiff_t>(config.vocab)) - row, text[i]);
    }
}

TEST_F(Generate, SamplingFollowsTheSeed) {
    const GenerateOptions options{.new_tokens_max = 40, .temperature = 1.0, .seed = 7, .stop = {}};
    const auto text = run(options);
    EXPECT_EQ(text, run(options));
    GenerateOptions other = options;
    other.seed = 8;
    EXPECT_NE(text, run(other));
    kernels::ThreadPool several(5);
    EXPECT_EQ(text, generate(several, network, params, prompt, options).value());
}

TEST_F(Generate, TopOneAndLowTemperatureAreGreedy) {
    const auto greedy = run({.new_tokens_max = 20, .stop = {}});
    EXPECT_EQ(greedy, run({.new_tokens_max = 20, .temperature = 5.0, .top_k = 1, .stop = {}}));
    EXPECT_EQ(greedy, run({.new_tokens_max = 20, .temperature = 1e-4, .stop = {}}));
}

// First tokens drawn under many seeds have the frequencies of the softmax.
TEST_F(Generate, FrequenciesAreThoseOfTheSoftmax) {
    auto decoder = engine::Decoder::create(pool, network, 8).value();
    const auto logits = decoder.append(prompt, params).value();
    const double temperature = 0.7;
    std::vector<std::size_t> order(config.vocab);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
    double sum = 0;
    for (std::size_t i = 0; i < 5; ++i) sum += std::exp((logits[order[i]] - logits[order[0]]) / temperature);
    constexpr int kDraws = 3000;
    std::vector<int> counts(config.vocab);
    for (std::uint64_t seed = 0; seed < kDraws; ++seed) {
        const auto text =
            run({.new_tokens_max = 1, .temperature = temperature, .top_k = 5, .seed = seed, .stop = {}});
        ++counts[static_cast<std::size_t>(text[0])];
    }
    int all = 0;
    for (std::size_t i = 0; i < 5; ++i) {
        const double p = std::exp((logits[order[i]] - logits[order[0]]) / temperature) / sum;
        EXPECT_NEAR(counts[order[i]], kDraws * p, 4.5 * std::sqrt(kDraws * p * (1 - p)) + 1);
        all += counts[order[i]];
    }
    EXPECT_EQ(all, kDraws);
}

// The nucleus is the fewest likeliest tokens whose probabilities reach top_p, within top_k where both are
// given; of those, the frequencies are the softmax's.
TEST_F(Generate, TheNucleusHasTheLikeliestTokens) {
    auto decoder = engine::Decoder::create(pool, network, 8).value();
    const auto logits = decoder.append(prompt, params).value();
    std::vector<std::size_t> order(config.vocab);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
    for (const std::size_t top_k : {std::size_t{0}, std::size_t{6}}) {
        const std::size_t among = top_k == 0 ? config.vocab : top_k;
        double sum = 0;
        for (std::size_t i = 0; i < among; ++i) sum += std::exp(logits[order[i]] - logits[order[0]]);
        std::size_t kept = 0;
        double reached = 0;
        while (reached < 0.6 * sum) reached += std::exp(logits[order[kept++]] - logits[order[0]]);
        ASSERT_GT(kept, 1U);
        constexpr int kDraws = 2000;
        std::vector<int> counts(config.vocab);
        for (std::uint64_t seed = 0; seed < kDraws; ++seed) {
            const auto text = run({.new_tokens_max = 1,
                                   .temperature = 1,
                                   .top_k = top_k,
                                   .top_p = 0.6,
                                   .seed = seed,
                                   .stop = {}});
            ++counts[static_cast<std::size_t>(text[0])];
        }
        int all = 0;
        for (std::size_t i = 0; i < kept; ++i) {
            const double p = std::exp(logits[order[i]] - logits[order[0]]) / reached;
            EXPECT_NEAR(counts[order[i]], kDraws * p, 4.5 * std::sqrt(kDraws * p * (1 - p)) + 1) << i;
            all += counts[order[i]];
        }
        EXPECT_EQ(all, kDraws) << top_k;
    }
    EXPECT_EQ(run({.new_tokens_max = 20, .temperature = 2, .top_p = 0, .stop = {}}),
              run({.new_tokens_max = 20, .stop = {}}));
}

TEST_F(Generate, TellsEachTokenAndEndsWhenAsked) {
    const auto greedy = run({.new_tokens_max = 20, .stop = {}});
    std::vector<std::int32_t> told;
    const auto text =
        generate(pool, network, params, prompt, {.new_tokens_max = 20, .stop = {}}, [&](std::int32_t token) {
            told.push_back(token);
            return told.size() < 7;
        });
    EXPECT_EQ(told, std::vector<std::int32_t>(greedy.begin(), greedy.begin() + 7));
    EXPECT_EQ(text.value(), told);
}

TEST_F(Generate, EndsAtStopTokensAndAtTheContext) {
    const auto greedy = run({.new_tokens_max = 20, .stop = {}});
    const std::int32_t stop = greedy[6];
    const auto first = std::find(greedy.begin(), greedy.end(), stop) - greedy.begin();
    const auto text = run({.new_tokens_max = 20, .stop = {stop}});
    EXPECT_EQ(text, std::vector<std::int32_t>(greedy.begin(), greedy.begin() + first));
    EXPECT_EQ(run({.new_tokens_max = 1000, .stop = {}}).size(), config.context - prompt.size() + 1);
}

TEST_F(Generate, RefusesWhatItCannotDo) {
    const auto code = [&] { return generate(pool, network, params, prompt, {}).error().code; };
    prompt.clear();
    EXPECT_EQ(code(), Errc::InvalidArgument);
    prompt.assign(config.context + 1, 1);
    EXPECT_EQ(code(), Errc::TooLarge);
    prompt.assign({1, 300});
    EXPECT_EQ(code(), Errc::InvalidData);
    prompt.assign({1, 2});
    params.values()[10'000] = std::numeric_limits<float>::infinity();
    EXPECT_EQ(code(), Errc::NotFinite);
}

}  // namespace
}  // namespace fedllm::client::train
