#include "client/agent/policy.hpp"

#include <gtest/gtest.h>

#include <functional>

namespace fedllm::client::agent {
namespace {

job::JobSpec modest_job() {
    job::JobSpec job;
    job.name = "demo";
    job.base_model = "demo";
    job.lora.target_modules = {"q_proj", "v_proj"};
    return job;
}

Policy modest_policy() {
    return {.methods = {"lora"},
            .target_modules = {"q_proj", "k_proj", "v_proj"},
            .lora_rank_max = 16,
            .sequence_length_max = 256,
            .batch_rows_max = 8,
            .local_steps_max = 100,
            .rounds_max = 10,
            .clip_norm_max = 10};
}

TEST(Policy, AllowsWhatIsWithinIt) {
    EXPECT_TRUE(check(modest_job(), modest_policy()));
    EXPECT_TRUE(check(modest_job(), Policy{})) << "and so do the defaults";
}

struct Case {
    const char* field;
    const char* asked;
    const char* limit;
    std::function<void(job::JobSpec&)> change;
};

class PolicyRefuses : public testing::TestWithParam<Case> {};

TEST_P(PolicyRefuses, NamingTheFieldAndBothValues) {
    job::JobSpec job = modest_job();
    GetParam().change(job);
    const auto result = check(job, modest_policy());
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Errc::PolicyRefused);
    for (const char* part : {GetParam().field, GetParam().asked, GetParam().limit}) {
        EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
    }
}

INSTANTIATE_TEST_SUITE_P(
    Table, PolicyRefuses,
    testing::Values(
        Case{"method is full", "full", "methods is [lora]",
             [](auto& job) { job.method = job::Method::Full; }},
        Case{"lora.rank is 17", "17", "lora_rank_max is 16", [](auto& job) { job.lora.rank = 17; }},
        Case{"lora.target_modules", "up_proj", "[q_proj, k_proj, v_proj]",
             [](auto& job) { job.lora.target_modules.push_back("up_proj"); }},
        Case{"train.sequence_length", "257", "256", [](auto& job) { job.train.sequence_length = 257; }},
        Case{"train.batch_rows", "9", "8", [](auto& job) { job.train.batch_rows = 9; }},
        Case{"train.local_steps", "101", "100", [](auto& job) { job.train.local_steps = 101; }},
        Case{"rounds", "11", "10", [](auto& job) { job.rounds = 11; }},
        Case{"update.clip_norm", "10.5", "10", [](auto& job) { job.update.clip_norm = 10.5; }}));

TEST(Policy, AdaptersOfFullTrainingDoNotMatter) {
    job::JobSpec job = modest_job();
    job.method = job::Method::Full;
    job.lora.rank = 1000;
    Policy policy = modest_policy();
    policy.methods = {"full"};
    EXPECT_TRUE(check(job, policy));
}

TEST(Policy, StepsOfOnePassAreCheckedWhenTheyAreKnown) {
    EXPECT_TRUE(check_steps(100, modest_policy()));
    const auto result = check_steps(101, modest_policy());
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Errc::PolicyRefused);
    EXPECT_NE(result.error().message.find("here 101 steps"), std::string::npos) << result.error().message;
}

TEST(Policy, OtherBaseWeightsAreRefused) {
    job::JobSpec job = modest_job();
    EXPECT_TRUE(check_base(job, "abc")) << "a job without a fingerprint asks for nothing";
    job.base_fingerprint = "abc";
    EXPECT_TRUE(check_base(job, "abc"));
    const auto result = check_base(job, "def");
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Errc::PolicyRefused);
    EXPECT_NE(result.error().message.find("base_fingerprint is abc"), std::string::npos);
    EXPECT_NE(result.error().message.find("fingerprint def"), std::string::npos);
}

}  // namespace
}  // namespace fedllm::client::agent
