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
