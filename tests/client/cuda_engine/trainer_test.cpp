// A trainer over the emulated GPU against PyTorch: real model folders, ten steps.
#include "client/train/trainer.hpp"

#include <algorithm>

#include "client/cuda_engine/cuda_backend.hpp"
#include "tests/client/train/golden_steps.hpp"

namespace fedllm::client::cuda_engine {
namespace {

using train::testing::Case;
using train::testing::GoldenSteps;

INSTANTIATE_TEST_SUITE_P(OnTheGpu, GoldenSteps,
                         ::testing::Values(Case{"llama/gqa", "all"}, Case{"llama/gqa", "full"},
                                           Case{"llama/tied_bias", "qv"}, Case{"llama/tied_bias", "full"},
                                           Case{"families/gpt2", "all"}, Case{"families/gpt2", "full"}),
                         [](const auto& tested) {
                             std::string name = std::string(tested.param.model) + "_" + tested.param.run;
                             std::replace(name.begin(), name.end(), '/', '_');
                             return name;
                         });

// The bounds of cuda_engine_cases.cpp for three layers, for a mean loss over 32 tokens or more and for a
// norm. These models go from a loss of 4 to 2 in ten steps: each adds a quarter of the bound.
TEST_P(GoldenSteps, TenStepsFollowTheReference) {
    constexpr double kOfLoss = 0.005, kOfNorm = 0.025;
    const auto backend = make_backend({}).value();
    const auto rows = examples();
    auto trainer = train::Trainer::create(base, job_of(rows[0].tokens.size()), *backend).value();
    tensor::ParamSet params = start(trainer->manifest());
    const auto losses = values("steps.loss");
    const auto norms = values("steps.grad_norm");
    std::size_t seen = 0;
    const auto outcome = trainer->train(params, rows, {.seed = 1}, [&](const train::TrainProgress& progress) {
        const double grown = 1 + static_cast<double>(seen) / 4;
        EXPECT_NEAR(progress.loss, losses[seen], kOfLoss * grown * losses[seen]) << "step " << seen;
        EXPECT_NEAR(progress.gradient_norm, norms[seen], kOfNorm * grown * norms[seen]) << "step " << seen;
        ++seen;
    });
    EXPECT_EQ(outcome.value().steps, 10U);
    EXPECT_EQ(seen, 10U);
    EXPECT_NEAR(trainer->evaluate(params, rows).value().mean(), losses[10], 3.5 * kOfLoss * losses[10]);
}

// Heads of 12 columns: refused in words, for the caller to use the CPU.
TEST(OnTheGpu, RefusesWhatItCannotCompute) {
    const auto backend = make_backend({}).value();
    const auto base = model::BaseModel::load("tests/golden/llama/long_rope").value();
    const auto refused = train::Trainer::create(base, train::testing::tiny_job(16), *backend);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Errc::Unsupported);
    EXPECT_NE(refused.error().message.find("12"), std::string::npos) << refused.error().message;
}

}  // namespace
}  // namespace fedllm::client::cuda_engine
