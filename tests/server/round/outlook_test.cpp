// The reason, the moment and what follows, through the life of a job.
#include "server/round/outlook.hpp"

#include "tests/server/round/support.hpp"

namespace fedllm::server::round {
namespace {

std::string_view reason(const Job& job) { return name(reason_of(job.state())); }
std::string follows(const Job& job) { return what_follows(job.state(), job.now()); }

TEST(Outlook, ThroughTheLifeOfAJob) {
    Job job(rules(1, 3, 2));
    job.tick_at(0);
    EXPECT_EQ(reason(job), "clients");
    EXPECT_EQ(follows(job), "round 0 opens as soon as they are connected");
    job.join("ash");
    job.join("birch");
    EXPECT_EQ(reason(job), "more_clients");
    EXPECT_EQ(waiting_since(job.state()), job.now());
    job.advance(Duration(1000));
    job.join("cedar");
    EXPECT_EQ(reason(job), "updates");
    EXPECT_EQ(waiting_since(job.state()), job.now());
    EXPECT_FALSE(closes_at(job.state())) << "not before enough are in";
    EXPECT_EQ(follows(job), "round 0 closes when enough are in, and then the final version is evaluated");

    EXPECT_EQ(
        waiting_for(job.state(), job.now()),
        "ash, birch and cedar to send updates of round 0 (0 of at least 2 are in), since 00:16:41 UTC; then "
        "round 0 closes when enough are in, and then the final version is evaluated");
    job.advance(Duration(5000));
    job.upload("ash");
    job.upload("birch");
    const auto closes = closes_at(job.state());
    ASSERT_TRUE(closes);
    EXPECT_GT(*closes, job.now());
    EXPECT_NE(follows(job).find("without those who are still missing"), std::string::npos) << follows(job);

    job.send(PauseRequested{"a holiday"});
    EXPECT_EQ(reason(job), "operator");
    EXPECT_EQ(waiting_since(job.state()), job.now());
    EXPECT_FALSE(closes_at(job.state()));
    EXPECT_NE(follows(job).find("fedllm job resume j1"), std::string::npos);
    job.send(ResumeRequested{});
    EXPECT_EQ(reason(job), "updates");

    job.upload("cedar");
    EXPECT_EQ(reason(job), "mean");
    job.commit();
    EXPECT_EQ(reason(job), "evaluations");
    EXPECT_EQ(follows(job), "the job is finished");
    job.send(StopRequested{"enough"});
    EXPECT_EQ(reason(job), "nothing");
    EXPECT_EQ(waiting_for(job.state(), job.now()), "nothing: the job was stopped: enough");
}

TEST(Outlook, ThoseWhoAreLostAreReplaced) {
    Job job(rules(2, 2, 2));
    job.join("ash");
    job.join("birch");
    EXPECT_EQ(reason(job), "updates");
    job.leave("birch");
    const auto until = counted_on_until(job.state(), id("birch"));
    ASSERT_TRUE(until);
    EXPECT_FALSE(counted_on_until(job.state(), id("ash")));
    EXPECT_EQ(reason(job), "updates") << "it may come back";
    job.advance(*until - job.now());
    job.send(Tick{});
    EXPECT_EQ(reason(job), "replacements");
    job.join("cedar");
    EXPECT_EQ(reason(job), "updates");
}

TEST(Outlook, ClientsOfOtherJobsAreNamedAsSuch) {
    Job job(rules(1, 2, 2));
    job.join("ash");
    job.send(ClientBusy{id("birch")});
    EXPECT_EQ(reason(job), "busy_clients");
    job.send(ClientFree{id("birch")});
    EXPECT_EQ(reason(job), "updates");
}

}  // namespace
}  // namespace fedllm::server::round
