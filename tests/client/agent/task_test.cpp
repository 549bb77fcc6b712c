#include "client/agent/task.hpp"

#include <gtest/gtest.h>

#include "common/protocol/limits.hpp"

namespace fedllm::client::agent {
namespace {

protocol::Task message() {
    job::JobSpec job;
    job.name = "demo";
    job.base_model = "demo-base";
    protocol::Task task;
    task.set_task_id("j1/3/site-a");
    task.set_kind(protocol::TASK_KIND_TRAIN);
    task.set_job_id("j1");
    task.set_job(job::print_job(job));
    task.set_round(3);
    task.set_model_digest(std::string(64, 'a'));
    task.set_model_bytes(1000);
    return task;
}

TEST(ReadTask, TakesWhatTheSiteAllows) {
    const auto task = read_task(message(), example_client_config());
    ASSERT_TRUE(task) << task.error().message;
    EXPECT_EQ(task->id, TaskId("j1/3/site-a"));
    EXPECT_EQ(task->kind, TaskKind::Train);
    EXPECT_EQ(task->round, RoundId(3));
    EXPECT_EQ(task->job.base_model, "demo-base");
}

TEST(ReadTask, RefusesAJobItCannotReadPolicyModelsAndSizes) {
    protocol::Task broken = message();
    broken.set_job(broken.job() + "optimiser: sgd\n");
    auto result = read_task(broken, example_client_config());
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Errc::InvalidConfig);

    ClientConfig config = example_client_config();
    config.policy.methods = {"full"};
    result = read_task(message(), config);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Errc::PolicyRefused);

    config = example_client_config();
    config.models = {{"other", "x"}};
    result = read_task(message(), config);
    ASSERT_FALSE(result);
    EXPECT_NE(result.error().message.find("base_model is 'demo-base'"), std::string::npos);

    config = example_client_config();
    config.version_bytes_max.bytes = 999;
    result = read_task(message(), config);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Errc::PolicyRefused);
    EXPECT_NE(result.error().message.find("version_bytes_max is 999 B"), std::string::npos);
}

TEST(DeclineText, KeepsWhatConcernsLocalFilesAtHome) {
    const DeclineText secret =
        decline_text(make_error(Errc::InvalidData, "patients.jsonl:3: 'Mr. Smith has'"));
    EXPECT_EQ(secret.reason, "invalid_data");
    EXPECT_EQ(secret.detail.find("Smith"), std::string::npos);
    EXPECT_NE(secret.detail.find("see this client's log"), std::string::npos);
    const DeclineText open = decline_text(make_error(Errc::PolicyRefused, "rank is 17\xC3\xA9"));
    EXPECT_EQ(open.detail, "rank is 17\xC3\xA9");
    EXPECT_EQ(decline_text(make_error(Errc::NotFinite, std::string(10'000, 'x'))).detail.size(),
              protocol::kTextBytesMax);
}

TEST(Messages, SayWhatTheMachineMeans) {
    const update::Claim claim{.digest = "d",
                              .bytes = 1,
                              .samples = 2,
                              .tokens = 3,
                              .train_loss = 4,
                              .train_seconds = 5,
                              .update_norm = 6,
                              .evaluation = {.loss_sum = 7, .tokens = 8}};
    const auto offer = to_message(SendOffer{TaskId("t"), claim}).offer();
    EXPECT_EQ(offer.task_id() + offer.digest(), "td");
    EXPECT_EQ(offer.bytes() * 10'000 + offer.samples() * 1000 + offer.tokens() * 100, 12'300u);
    EXPECT_EQ(offer.train_loss() * 100 + offer.train_seconds() * 10 + offer.update_norm(), 456);
    EXPECT_EQ(offer.evaluation().loss_sum() * 10 + static_cast<double>(offer.evaluation().tokens()), 78);
    EXPECT_EQ(offer.evaluation().task_id(), "t");
    const auto progress = to_message(SendProgress{TaskId("t"), {1, 2, 3, 4}}).progress();
    EXPECT_EQ(progress.step() * 1000 + progress.steps() * 100, 1200u);
    EXPECT_EQ(progress.loss() * 10 + progress.tokens_per_second(), 34);
}

}  // namespace
}  // namespace fedllm::client::agent
