// Cross entropy, AdamW and the gradient norm.
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/adamw/op.hpp"
#include "kernels/cross_entropy/op.hpp"
#include "tests/kernels/adamw_bits.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/support.hpp"

namespace fedllm::kernels {
namespace {

using namespace testing;
namespace ref = reference;

constexpr float kGradientScale = 0.25f;

std::vector<std::int32_t> targets_of(const cases::Rows& c) {
    std::vector<std::int32_t> targets;
    for (std::size_t m = 0; m < c.rows; ++m) {
        targets.push_back(m % 3 == 1 ? kIgnoreIndex : static_cast<std::int32_t>(m * 7919 % c.cols));
    }
    targets[0] = static_cast<std::int32_t>(c.cols - 1);
    return targets;
}

TEST(CrossEntropy, EqualsOracle) {
    for (const auto& c : cases::kLogits) {
        Grid logits = Grid::random(c.rows, c.cols, "logits");
        for (std::size_t m = 0; m < c.rows; ++m) logits.at(m, c.cols / 2) += 5.0f;
        const std::vector<std::int32_t> targets = targets_of(c);
        const Dense values = logits.dense();
        Dense loss(1, c.rows), loss_magnitude(1, c.rows);
        for (std::size_t m = 0; m < c.rows; ++m) {
            loss(0, m) = ref::cross_entropy(values, m, targets[m]);
            loss_magnitude(0, m) = targets[m] < 0 ? 0.0 : 1.0 + std::abs(loss(0, m));
        }
        ThreadPool pool(2);
        Grid forward(1, c.rows, 0), both(1, c.rows, 0);
        forward.fill(NAN);
        both.fill(NAN);
        cross_entropy_forward(pool, logits.view(), targets, forward.storage());
        EXPECT_TRUE(logits.guards_intact());
        cross_entropy_forward_backward(pool, logits.view(), targets, both.storage(), kGradientScale);
        // The distance to the highest logit, below 16 here, is rounded before exp: 16 units relative to a
        // term.
        const double bound = bound_of(c.cols / 16) + 24.0 * kUnit;
        expect_within(forward, loss, loss_magnitude, bound, "loss");
        EXPECT_EQ(forward.storage(), both.storage());
        const Dense gradient =
            ref::scaled(ref::cross_entropy_gradient(values, targets), double{kGradientScale});
        Dense magnitude = ref::absolute(gradient);
        for (std::size_t m = 0; m < c.rows; ++m) {
            if (targets[m] >= 0) magnitude(m, static_cast<std::size_t>(targets[m])) += 2.0 * kGradientScale;
        }
        expect_within(logits, gradient, magnitude, bound, "gradient");
    }
}

TEST(CrossEntropy, BitsDoNotDependOnThreads) {
    for (const auto& c : cases::kLogits) {
        const Grid logits = Grid::random(c.rows, c.cols, "logits");
        const std::vector<std::int32_t> targets = targets_of(c);
        expect_same_bits(
            [&](ThreadPool& pool) {
                Grid gradient = logits, losses(1, c.rows, 0);
                cross_entropy_forward_backward(pool, gradient.view(), targets, losses.storage(), 1.0f);
                return std::vector<Grid>{gradient, losses};
            },
            "cross entropy");
    }
}

TEST(CrossEntropy, SurvivesHugeLogitsAndShowsNaN) {
    ThreadPool pool(1);
    Grid logits(2, 20);
    logits.at(0, 3) = 1e30f;
    logits.at(0, 4) = -1e30f;
    logits.at(1, 7) = NAN;
    std::vector<float> losses(2);
    const std::vector<std::int32_t> targets{3, 0};
    cross_entropy_forward(pool, logits.view(), targets, losses);
    EXPECT_EQ(losses[0], 0.0f);
    EXPECT_TRUE(std::isnan(losses[1]));
}

TEST(CrossEntropyOracle, GradientIsFiniteDifferences) {
    const Dense logits = Grid::random(3, 6, "logits").dense();
    const std::vector<std::int32_t> targets{2, kIgnoreIndex, 5};
    const auto loss = [&](const Dense& at) {
        double total = 0.0;
        for (std::size_t m = 0; m < 3; ++m) total += ref::cross_entropy(at, m, targets[m]);
        return total;
    };
    expect_gradient(loss, logits, ref::cross_entropy_gradient(logits, targets), "logits");
}

TEST(AdamW, FollowsOracleForTenSteps) {
    const AdamWConfig config{
        .learning_rate = 3e-3, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .weight_decay = 0.1};
    const std::size_t count = 16 * 1024 + 37;
    Grid params = Grid::random(1, count, "params"), first(1, count), second(1, count);
    std::vector<ref::AdamWState> states(count);
    for (std::size_t i = 0; i < count; ++i) states[i] = {params.at(0, i), 0.0, 0.0};
    ThreadPool pool(2);
    const auto span_of = [&](Grid& grid) { return std::span<float>(grid.view().row(0), count); };
    for (std::uint64_t step = 1; step <= 10; ++step) {
        Grid gradient = Grid::random(1, count, "gradient" + std::to_string(step));
        gradient.at(0, 5) = 0.0f;
        adamw(pool, config, step, kGradientScale, span_of(gradient), span_of(params), span_of(first),
              span_of(second));
        for (std::size_t i = 0; i < count; ++i) {
            states[i] =
                ref::adamw(states[i], double{gradient.at(0, i)} * kGradientScale, config.learning_rate,
                           config.beta1, config.beta2, config.epsilon, config.weight_decay, step);
        }
    }
    Dense want_params(1, count), want_first = want_params, want_second = want_params, magnitude = want_params;
    for (std::size_t i = 0; i < count; ++i) {
        want_params(0, i) = states[i].param;
        want_first(0, i) = states[i].first;
        want_second(0, i) = states[i].second;
        magnitude(0, i) = 2.0 + std::abs(states[i].param);  // ten updates of at most rate / (1 - beta1)
    }
    expect_within(params, want_params, magnitude, 10 * 4.0 * kUnit, "params");
    expect_within(first, want_first, magnitude, 10 * 4.0 * kUnit, "first moment");
    expect_within(second, want_second, want_second, 10 * 4.0 * kUnit, "second moment");
}

// Which the CUDA body is tested against (tests/kernels/cuda/adamw_cases.cpp): so the two give the same bits.
TEST(AdamW, GivesTheBitsOfItsScalarArithmetic) {
    const AdamWConfig config{
        .learning_rate = 3e-3, .beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .weight_decay = 0.1};
    const std::size_t count = 4099;
    ThreadPool pool(1);
    std::vector<Grid> got{Grid::random(1, count, "params", 0), Grid(1, count, 0), Grid(1, count, 0)};
    std::vector<Grid> want = got;
    for (std::uint64_t step = 1; step <= 5; ++step) {
        const Grid gradient = Grid::random(1, count, "gradient" + std::to_string(step), 0);
        adamw(pool, config, step, kGradientScale, gradient.storage(), got[0].storage(), got[1].storage(),
              got[2].storage());
        adamw_bits(config, step, kGradientScale, gradient.storage(), want[0].storage(), want[1].storage(),
                   want[2].storage());
    }
    for (std::size_t i = 0; i < got.size(); ++i) {
        EXPECT_EQ(0, std::memcmp(got[i].storage().data(), want[i].storage().data(), count * sizeof(float)));
    }
}

TEST(AdamW, BitsDoNotDependOnThreads) {
    const std::size_t count = 100'001;
    const Grid gradient = Grid::random(1, count, "gradient", 0);
    expect_same_bits(
        [&](ThreadPool& pool) {
            std::vector<Grid> state{Grid::random(1, count, "params", 0), Grid(1, count, 0),
                                    Grid(1, count, 0)};
            adamw(pool, {}, 1, 1.0f, gradient.storage(), state[0].storage(), state[1].storage(),
                  state[2].storage());
            return state;
        },
        "adamw");
}

TEST(L2Norm, EqualsOracleForAnyThreadCount) {
    for (const std::size_t count : {0u, 1u, 15u, 17u, 16384u, 100'001u}) {
        const Grid values = Grid::random(1, count, "values", 0);
        double squares = 0.0;
        for (const float value : values.storage()) squares += double{value} * double{value};
        double first = 0.0;
        for (const unsigned threads : {1u, 2u, 3u}) {
            ThreadPool pool(threads);
            const double norm = l2_norm(pool, values.storage());
            if (threads == 1) first = norm;
            EXPECT_EQ(norm, first);
            EXPECT_NEAR(norm, std::sqrt(squares), 1e-12 * (1.0 + norm));
        }
    }
}

}  // namespace
}  // namespace fedllm::kernels
