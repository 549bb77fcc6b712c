#include "client/train/trainer.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "client/model/manifests.hpp"
#include "common/base/philox.hpp"
#include "common/formats/safetensors.hpp"
#include "tests/client/engine/allocation_counter.hpp"
#include "tests/client/train/golden_steps.hpp"

namespace fedllm::client::train {
namespace {

using data::Example;
using tensor::ParamSet;
using testing::Case;
using testing::GoldenSteps;
using testing::kGolden;
using testing::tiny_job;

// Counting modulo a small number: learnable in a few steps.
std::vector<Example> counting(std::size_t count, std::uint64_t seed) {
    std::vector<Example> examples;
    Rng rng(seed, "counting");
    for (std::size_t i = 0; i < count; ++i) {
        Example example;
        const std::size_t length = 4 + rng.below(12);
        std::uint64_t value = rng.below(20);
        for (std::size_t t = 0; t < length; ++t, ++value) {
            example.tokens.push_back(static_cast<std::int32_t>(value % 20));
            example.targets.push_back(t < 2 ? data::kIgnoreIndex
                                            : static_cast<std::int32_t>((value + 1) % 20));
        }
        examples.push_back(std::move(example));
    }
    return examples;
}

// ---- Ten steps of PyTorch's AdamW: tests/golden/make_llama_golden.py.

INSTANTIATE_TEST_SUITE_P(Models, GoldenSteps,
                         ::testing::Values(Case{"llama/gqa", "all"}, Case{"llama/gqa", "qv"},
                                           Case{"llama/gqa", "full"}, Case{"llama/tied_bias", "all"},
                                           Case{"llama/tied_bias", "qv"}, Case{"llama/tied_bias", "full"},
                                           Case{"llama/long_rope", "all"}, Case{"llama/long_rope", "qv"},
                                           Case{"llama/long_rope", "full"}, Case{"families/llama3", "all"},
                                           Case{"families/mistral", "all"}, Case{"families/qwen2", "all"},
                                           Case{"families/qwen2", "full"}, Case{"families/qwen3", "all"},
                                           Case{"families/qwen3", "full"}, Case{"families/gpt2", "all"},
                                           Case{"families/gpt2", "full"}),
                         [](const auto& tested) {
                             std::string name = std::string(tested.param.model) + "_" + tested.param.run;
                             std::replace(name.begin(), name.end(), '/', '_');
                             return name;
                         });

TEST_P(GoldenSteps, TenStepsFollowTheReference) {
    kernels::ThreadPool pool(2);
    const auto rows = examples();
    auto trainer = Trainer::create(base, job_of(rows[0].tokens.size()), pool).value();
    ParamSet params = start(trainer->manifest());
    const auto losses = values("steps.loss");
    const auto norms = values("steps.grad_norm");
    std::size_t seen = 0;
    const auto outcome = trainer->train(params, rows, {.seed = 1}, [&](const TrainProgress& progress) {
        EXPECT_NEAR(progress.loss, losses[seen], 1e-4 * losses[seen]) << "step " << seen;
        EXPECT_NEAR(progress.gradient_norm, norms[seen], 3e-4 * norms[seen]) << "step " << seen;
        ++seen;
    });
    EXPECT_EQ(outcome.value().steps, 10U);
    EXPECT_EQ(seen, 10U);
    EXPECT_NEAR(trainer->evaluate(params, rows).value().mean(), losses[10], 1e-4 * losses[10]);
}

// The job's choice reaches the engine: less memory, the same bits.
TEST_P(GoldenSteps, CheckpointingChangesNoBit) {
    kernels::ThreadPool pool(2);
    const auto rows = examples();
    job::JobSpec spec = job_of(rows[0].tokens.size());
    std::vector<ParamSet> ends;
    for (const auto choice : {job::Checkpointing::None, job::Checkpointing::Layers}) {
        spec.train.checkpointing = choice;
        auto trainer = Trainer::create(base, spec, pool).value();
        EXPECT_EQ(trainer->limits().keep == engine::Keep::LayerInputs, choice == job::Checkpointing::Layers);
        ends.push_back(start(trainer->manifest()));
        ASSERT_TRUE(trainer->train(ends.back(), rows, {.seed = 1}, nullptr).has_value());
    }
    EXPECT_TRUE(ends[0] == ends[1]);
}

// ---- Our own promises, on the smallest golden model.

class TrainerTest : public ::testing::Test {
protected:
    model::BaseModel base = model::BaseModel::load(kGolden / "llama/gqa").value();
    std::vector<Example> examples = counting(40, 3);
    kernels::ThreadPool pool{2};
    job::JobSpec job = tiny_job(32);

    TrainerTest() {
        job.train.packing = true;
        job.train.batch_rows = 4;
        job.train.optimizer.learning_rate = 1e-2;
        job.train.local_steps = 30;
    }
    ParamSet trained(kernels::ThreadPool& on, TrainOutcome* outcome = nullptr) {
        auto trainer = Trainer::create(base, job, on).value();
        ParamSet params = job.method == job::Method::Full ? model::full_parameters(base)
                                                          : model::initial_lora(trainer->manifest(), 1);
        const auto result = trainer->train(params, examples, {.seed = 9}).value();
        if (outcome != nullptr) *outcome = result;
        return params;
    }
};

TEST_F(TrainerTest, LearnsToCount) {
    for (const auto method : {job::Method::Lora, job::Method::Full}) {
        job.method = method;
        TrainOutcome outcome;
        const ParamSet params = trained(pool, &outcome);
        EXPECT_LT(outcome.loss_last, 0.4 * outcome.loss_first);
        EXPECT_EQ(outcome.steps, 30U);
        EXPECT_GT(outcome.examples, 40U);
        EXPECT_GT(outcome.tokens_per_second, 0);
        auto trainer = Trainer::create(base, job, pool).value();
        const auto held_out = trainer->evaluate(params, counting(20, 4)).value();
        EXPECT_LT(held_out.mean(), 0.6 * outcome.loss_first);
    }
}

TEST_F(TrainerTest, SameSeedSameBitsForAnyNumberOfThreads) {
    kernels::ThreadPool one(1), five(5);
    const ParamSet first = trained(one);
    EXPECT_TRUE(first == trained(five));
    EXPECT_TRUE(first == trained(one));
    job.train.local_steps = 29;
    EXPECT_FALSE(first == trained(one));
}

TEST_F(TrainerTest, EveryRoundStartsAnew) {
    auto trainer = Trainer::create(base, job, pool).value();
    ParamSet warm = model::initial_lora(trainer->manifest(), 2);
    ASSERT_TRUE(trainer->train(warm, examples, {.seed = 4}));
    ParamSet params = model::initial_lora(trainer->manifest(), 1);
    ASSERT_TRUE(trainer->train(params, examples, {.seed = 9}));
    EXPECT_TRUE(params == trained(pool));
}

// FFA-LoRA: no gradient, no moment and no weight decay touches A.
TEST_F(TrainerTest, AFrozenAStaysBitForBit) {
    job.lora.freeze_a = true;
    job.train.optimizer.weight_decay = 0.5;
    const ParamSet params = trained(pool);
    const ParamSet start = model::initial_lora(params.manifest(), 1);
    for (std::size_t i = 0; i < params.manifest().tensors().size(); ++i) {
        const auto was = start.tensor(i), is = params.tensor(i);
        const std::string& name = params.manifest().tensors()[i].name;
        const bool same = std::memcmp(was.data(), is.data(), was.size_bytes()) == 0;
        EXPECT_EQ(same, name.ends_with(".lora_A.weight")) << name;
    }
}

// While B is 0, A has no gradient: after one step both are where they would be anyway, and have the same
// gradients. From then on A's no longer count in the norm.
TEST_F(TrainerTest, AFrozenALeavesTheStepsOfB) {
    job.train.local_steps = 2;
    std::vector<double> norms[2];
    for (const bool frozen : {false, true}) {
        job.lora.freeze_a = frozen;
        auto trainer = Trainer::create(base, job, pool).value();
        ParamSet params = model::initial_lora(trainer->manifest(), 1);
        ASSERT_TRUE(trainer->train(params, examples, {.seed = 9}, [&](const TrainProgress& progress) {
            norms[frozen].push_back(progress.gradient_norm);
        }));
    }
    EXPECT_EQ(norms[1][0], norms[0][0]);
    EXPECT_LT(norms[1][1], norms[0][1]);
    EXPECT_GT(norms[1][1], 0.5 * norms[0][1]);
    job.train.local_steps = 1;
    const ParamSet frozen = trained(pool);
    job.lora.freeze_a = false;
    EXPECT_TRUE(frozen == trained(pool));
}

TEST_F(TrainerTest, OnePassOverTheDataSeesEveryExampleOnce) {
    job.train.local_steps = 0;
    TrainOutcome outcome;
    (void)trained(pool, &outcome);
    auto trainer = Trainer::create(base, job, pool).value();
    EXPECT_EQ(outcome.steps, trainer->steps(examples));
    EXPECT_GE(outcome.examples, examples.size());
}

TEST_F(TrainerTest, PackedEvaluationEqualsUnpacked) {
    auto trainer = Trainer::create(base, job, pool).value();
    const ParamSet params = model::initial_lora(trainer->manifest(), 1);
    const EvalOutcome together = trainer->evaluate(params, examples).value();
    EvalOutcome apart;
    for (const Example& example : examples) {
        const auto one = trainer->evaluate(params, std::span(&example, 1)).value();
        apart.loss_sum += one.loss_sum;
        apart.tokens += one.tokens;
    }
    EXPECT_EQ(together.tokens, apart.tokens);
    EXPECT_NEAR(together.mean(), apart.mean(), 1e-5);
}

TEST_F(TrainerTest, StepsAllocateNothing) {
    auto trainer = Trainer::create(base, job, pool).value();
    ParamSet params = model::initial_lora(trainer->manifest(), 1);
    std::vector<std::size_t> counts;
    counts.reserve(64);
    const auto outcome = trainer->train(params, examples, {.seed = 9}, [&](const TrainProgress&) {
        counts.push_back(engine::testing::allocations());
    });
    ASSERT_TRUE(outcome);
    EXPECT_EQ(counts.front(), counts.back());
}

TEST_F(TrainerTest, ScheduleSpansAllRounds) {
    job.train.local_steps = 4;
    job.train.optimizer.warmup_steps = 2;
    job.train.optimizer.schedule = job::Schedule::Cosine;
    auto trainer = Trainer::create(base, job, pool).value();
    ParamSet params = model::initial_lora(trainer->manifest(), 1);
    std::vector<double> rates;
    for (std::uint64_t round = 0; round < 3; ++round) {
        const TrainRequest request{.seed = round, .first_step = 4 * round, .total_steps = 12};
        const auto outcome = trainer->train(params, examples, request, [&](const TrainProgress& progress) {
            rates.push_back(progress.learning_rate);
        });
        ASSERT_TRUE(outcome);
    }
    ASSERT_EQ(rates.size(), 12U);
    for (std::size_t step = 0; step < rates.size(); ++step) {
        EXPECT_EQ(rates[step], job::learning_rate_at(job.train.optimizer, step, 12)) << step;
    }
    EXPECT_LT(rates[11], rates[4]);
}

TEST_F(TrainerTest, NotFiniteNamesTheStep) {
    auto trainer = Trainer::create(base, job, pool).value();
    ParamSet params = model::initial_lora(trainer->manifest(), 1);
    params.values()[5] = std::numeric_limits<float>::quiet_NaN();
    const auto outcome = trainer->train(params, examples, {.seed = 9});
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().code, Errc::NotFinite);
    EXPECT_NE(outcome.error().message.find("step 1"), std::string::npos) << outcome.error().message;
    EXPECT_EQ(trainer->evaluate(params, examples).error().code, Errc::NotFinite);
}

TEST_F(TrainerTest, StopsWhenAsked) {
    auto trainer = Trainer::create(base, job, pool).value();
    ParamSet params = model::initial_lora(trainer->manifest(), 1);
    std::stop_source source;
    std::uint64_t last = 0;
    const auto outcome = trainer->train(
        params, examples, {.seed = 9},
        [&](const TrainProgress& progress) {
            last = progress.step;
            if (last == 3) source.request_stop();
        },
        source.get_token());
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().code, Errc::Cancelled);
    EXPECT_EQ(last, 3U);
}

TEST_F(TrainerTest, RefusesWhatDoesNotFit) {
    auto trainer = Trainer::create(base, job, pool).value();
    ParamSet params = model::initial_lora(trainer->manifest(), 1);
    EXPECT_EQ(trainer->train(params, {}, {}).error().code, Errc::InvalidData);
    ParamSet other = model::full_parameters(base);
    EXPECT_EQ(trainer->train(other, examples, {}).error().code, Errc::ManifestMismatch);
    std::vector<Example> wide{{std::vector<std::int32_t>(33, 1), std::vector<std::int32_t>(33, 1)}};
    EXPECT_EQ(trainer->train(params, wide, {}).error().code, Errc::InvalidData);
    std::vector<Example> foreign{{{1, 97}, {97, -100}}};  // the model has 97 token ids
    EXPECT_EQ(trainer->train(params, foreign, {}).error().code, Errc::InvalidData);
    job.train.sequence_length = 65;
    EXPECT_EQ(Trainer::create(base, job, pool).error().code, Errc::InvalidConfig);
}

}  // namespace
}  // namespace fedllm::client::train
