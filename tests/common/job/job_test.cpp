#include <gtest/gtest.h>

#include "common/job/job_spec.hpp"

namespace fedllm::job {
namespace {

const std::string kSmall = "name: j\nbase_model: m\n";

TEST(Job, CanonicalTextReadsBackEqual) {
    JobSpec job;
    job.name = "a job";
    job.base_model = "tiny";
    job.method = Method::Full;
    job.train.optimizer.learning_rate = 3e-4;
    job.train.optimizer.schedule = Schedule::Cosine;
    job.train.checkpointing = Checkpointing::Layers;
    job.lora.target_modules = {"q_proj"};
    const auto again = parse_job(print_job(job), "printed");
    ASSERT_TRUE(again) << to_string(again.error());
    EXPECT_EQ(*again, job);
    EXPECT_EQ(print_job(*again), print_job(job));
}

TEST(Job, RefusesWhatCannotWorkTogether) {
    const auto refusal = [](const std::string& more) { return parse_job(kSmall + more, "j.yaml"); };
    ASSERT_TRUE(refusal(""));
    EXPECT_NE(refusal("clients_per_round: 2\nclients_minimum: 3\n").error().message.find("clients_minimum"),
              std::string::npos);
    EXPECT_NE(refusal("lora:\n  target_modules: []\n").error().message.find("lora.target_modules"),
              std::string::npos);
    EXPECT_NE(refusal("samples_max: 1000000000000\n").error().message.find("update.clip_norm"),
              std::string::npos);
    EXPECT_TRUE(refusal("samples_max: 1000000000000\nweighting: uniform\n"));
    EXPECT_FALSE(parse_job("base_model: m\n", "j.yaml"));
    EXPECT_NE(refusal("base:\n  storage: nf4\nmethod: full\n").error().message.find("base.storage"),
              std::string::npos);
    EXPECT_NE(refusal("base:\n  compute: int8\nmethod: full\n").error().message.find("base.compute"),
              std::string::npos);
    EXPECT_NE(refusal("base:\n  compute: bf16\nmethod: full\n").error().message.find("base.compute"),
              std::string::npos);
    EXPECT_NE(refusal("base:\n  compute: half\n").error().message.find("bf16"), std::string::npos);
    EXPECT_EQ(refusal("base:\n  compute: bf16\n")->base.compute, tensor::BaseCompute::Bf16);
    EXPECT_EQ(refusal("base:\n  compute: fp8\n")->base.compute, tensor::BaseCompute::Fp8);
    EXPECT_NE(refusal("base:\n  storage: gptq\n").error().message.find("nf4"), std::string::npos);
    EXPECT_EQ(refusal("base:\n  storage: nf4\n")->base.storage, tensor::BaseStorage::Nf4);
}

TEST(Job, AsynchronousKeysMustFitTogether) {
    const auto refusal = [](const std::string& more) {
        const std::string rest = more.find("samples_max") == std::string::npos ? "samples_max: 100000\n" : "";
        const auto job =
            parse_job(kSmall + "clients_per_round: 4\nclients_minimum: 2\n" + rest + more, "j.yaml");
        return job ? std::string() : job.error().message;
    };
    EXPECT_EQ(refusal("aggregation:\n  mode: async\n  buffer: 3\n"), "");
    EXPECT_NE(refusal("aggregation:\n  buffer: 3\n").find("aggregation.buffer: is for"), std::string::npos);
    EXPECT_NE(refusal("aggregation:\n  mode: async\n").find("at least 1"), std::string::npos);
    EXPECT_NE(refusal("aggregation:\n  mode: async\n  buffer: 5\n").find("larger than clients_per_round"),
              std::string::npos);
    EXPECT_NE(refusal("aggregation:\n  mode: async\n  buffer: 1\n").find("clients_minimum"),
              std::string::npos);
    EXPECT_NE(
        refusal("aggregation:\n  mode: async\n  buffer: 3\nupdate:\n  segments: 2\n").find("update.segments"),
        std::string::npos);
    EXPECT_NE(refusal("aggregation:\n  mode: fedbuff\n").find("async"), std::string::npos);
    // 1024 times the weight needs ten bits more of the exact sum.
    EXPECT_NE(refusal("samples_max: 1000000000\naggregation:\n  mode: async\n  buffer: 3\n")
                  .find("update.clip_norm"),
              std::string::npos);
}

TEST(Job, StaleUpdatesWeighLessByExactIntegers) {
    AggregationSpec aggregation{.mode = Mode::Async, .buffer = 4};
    const std::vector<std::uint64_t> root{1024, 724, 591, 512, 458, 418, 387, 362, 341, 324, 309};
    for (std::uint32_t s = 0; s < root.size(); ++s) EXPECT_EQ(staleness_weight(aggregation, s), root[s]) << s;
    EXPECT_EQ(staleness_weight(aggregation, 1023), 32u);
    aggregation.staleness_power = 1;
    EXPECT_EQ(staleness_weight(aggregation, 2), 341u);
    aggregation.staleness_power = 0;
    EXPECT_EQ(staleness_weight(aggregation, 900), 1024u);
    aggregation.staleness_power = 4;
    EXPECT_EQ(staleness_weight(aggregation, 1000), 1u) << "it counts a little, never not at all";
    aggregation.mode = Mode::Sync;
    EXPECT_EQ(staleness_weight(aggregation, 3), 1u);
    JobSpec job;
    job.clients_per_round = 5;
    EXPECT_DOUBLE_EQ(weight_total_max(job), 5e7);
    job.aggregation = {.mode = Mode::Async, .buffer = 3};
    EXPECT_DOUBLE_EQ(weight_total_max(job), 3.0 * 1024 * 1e7);
}

TEST(Job, LearningRateWarmsUpThenFollowsTheSchedule) {
    OptimizerSpec optimizer;
    optimizer.learning_rate = 1.0;
    optimizer.warmup_steps = 4;
    EXPECT_DOUBLE_EQ(learning_rate_at(optimizer, 0, 100), 0.25);
    EXPECT_DOUBLE_EQ(learning_rate_at(optimizer, 3, 100), 1.0);
    EXPECT_DOUBLE_EQ(learning_rate_at(optimizer, 99, 100), 1.0);
    optimizer.schedule = Schedule::Cosine;
    EXPECT_DOUBLE_EQ(learning_rate_at(optimizer, 4, 104), 1.0);
    EXPECT_NEAR(learning_rate_at(optimizer, 54, 104), 0.5, 1e-12);
    EXPECT_NEAR(learning_rate_at(optimizer, 104, 104), 0.0, 1e-12);
    EXPECT_NEAR(learning_rate_at(optimizer, 999, 104), 0.0, 1e-12);
}

}  // namespace
}  // namespace fedllm::job
