// Asynchronous jobs: buffers instead of rounds, stale work, and what a restart makes of them.
#include "tests/server/round/support.hpp"

namespace fedllm::server::round {
namespace {

using Names = std::vector<std::string>;

Rules buffered(std::uint32_t rounds, std::uint32_t at_once, std::uint32_t minimum, std::uint32_t buffer,
               std::uint32_t staleness_max = 16) {
    Rules drawn = rules(rounds, at_once, minimum);
    drawn.asynchronous = true;
    drawn.buffer = buffer;
    drawn.staleness_max = staleness_max;
    return drawn;
}

TEST(Async, WhoIsAtWorkGoesOnWhileVersionsAreMade) {
    Job job(buffered(3, 3, 1, 2));
    job.send(Tick{});
    EXPECT_EQ(job.phase(), Phase::Training) << "it waits for nobody";
    EXPECT_EQ(job.waiting(),
              "1 client more to take part in round 0 (0 of 2 are in), for 0 s; then round 0 closes");
    for (const char* name : {"a", "b", "c"}) {
        job.join(name);
        EXPECT_EQ(job.asked(), Names{name});
    }
    EXPECT_TRUE(job.upload("a"));
    EXPECT_TRUE(job.asked().empty()) << "once per version";
    EXPECT_TRUE(job.upload("b"));
    EXPECT_EQ(job.phase(), Phase::Aggregating);
    EXPECT_TRUE(job.all<CloseRound>()[0].dropped.empty());
    EXPECT_TRUE(job.all<Release>().empty());
    EXPECT_TRUE(withholds(job.state())) << "c's verdict waits for the next round";
    job.commit();
    EXPECT_FALSE(withholds(job.state()));
    EXPECT_EQ(job.asked(), (Names{"a", "b"}));
    EXPECT_EQ(job.all<AskClient>()[0].round, RoundId(1));
    EXPECT_EQ(*admits(job.state(), RoundId(0), id("c")), RoundId(1));
    EXPECT_EQ(admits(job.state(), RoundId(0), id("a")).error().code, Errc::Stale);
    EXPECT_TRUE(job.upload("c", RoundId(0)));
    EXPECT_EQ(job.asked(), Names{"c"}) << "an older version's update frees it for the newest";
    EXPECT_TRUE(job.upload("c", RoundId(1))) << "and it may count twice in one buffer";
    EXPECT_EQ(job.all<CloseRound>()[0].accepted,
              (std::vector<PartKey>{{RoundId(0), id("c")}, {RoundId(1), id("c")}}));
}

TEST(Async, TooStaleWorkEndsAndStartsAgain) {
    Job job(buffered(9, 3, 1, 1, 1));
    for (const char* name : {"a", "b"}) job.join(name);
    job.upload("a");
    job.commit();
    EXPECT_TRUE(job.all<Release>().empty()) << "b is one version behind";
    job.upload("a");
    job.commit();
    ASSERT_EQ(job.all<Release>().size(), 1u);
    EXPECT_EQ(job.all<Release>()[0].client, id("b"));
    EXPECT_EQ(job.all<RecordPart>()[0].reason, kTooStale);
    EXPECT_EQ(job.asked(), (Names{"a", "b"}));
    EXPECT_EQ(admits(job.state(), RoundId(0), id("b")).error().code, Errc::Stale);
    EXPECT_EQ(*admits(job.state(), RoundId(2), id("b")), RoundId(2));
}

TEST(Async, TheLastVersionReleasesEverybodyForTheEvaluation) {
    Job job(buffered(1, 2, 1, 1));
    for (const char* name : {"a", "b"}) job.join(name);
    job.upload("a");
    ASSERT_EQ(job.all<CloseRound>().size(), 1u);
    EXPECT_EQ(job.all<CloseRound>()[0].dropped[0].reason, kLate);
    EXPECT_EQ(job.all<Release>()[0].client, id("b"));
    job.commit();
    EXPECT_EQ(job.phase(), Phase::FinalEvaluation);
    EXPECT_EQ(job.asked(), (Names{"a", "b"}));
    EXPECT_EQ(job.all<AskClient>()[0].kind, TaskKind::Evaluate);
}

TEST(Async, NoMoreThanNTrainAtOnceAndTheMissingAreReplaced) {
    Job job(buffered(9, 2, 1, 2));
    for (const char* name : {"a", "b", "c"}) job.join(name);
    EXPECT_TRUE(job.asked().empty());
    job.leave("a");
    job.tick_at(2'000);
    EXPECT_EQ(job.asked(), Names{"c"});
    job.join("a");
    EXPECT_EQ(job.asked(), Names{"a"}) << "its own task again";
    EXPECT_TRUE(job.upload("a"));
}

TEST(Async, ABufferThatNobodyFillsClosesAfterPatience) {
    Job job(buffered(2, 3, 1, 3));
    job.join("a");
    job.tick_at(5'000);
    job.upload("a");
    EXPECT_EQ(
        job.waiting(),
        "more clients to fill the buffer (connected: a) (1 of 3 is in), for 0 s; round 0 closes in 10 s "
        "without the missing");
    job.tick_at(14'999);
    EXPECT_EQ(job.phase(), Phase::Training);
    job.tick_at(15'000);
    EXPECT_EQ(job.phase(), Phase::Aggregating);
}

TEST(Async, RestartKeepsWhoIsAtWorkAndWhatTheBufferHolds) {
    Job job(buffered(4, 3, 1, 2));
    for (const char* name : {"a", "b", "c"}) job.join(name);
    job.upload("a");
    job.upload("b");
    job.commit();
    job.upload("a");
    job.restart();
    EXPECT_EQ(job.state().parts.count(PartState::Accepted), 1u);
    EXPECT_EQ(job.state().parts.task_of(id("c")), (PartKey{RoundId(0), id("c")}));
    job.join("c");
    EXPECT_EQ(job.asked(), Names{"c"});
    EXPECT_EQ(job.all<AskClient>()[0].round, RoundId(0)) << "its task of the older version";
    EXPECT_TRUE(job.upload("c"));
    EXPECT_EQ(job.phase(), Phase::Aggregating);
    job.restart();
    ASSERT_EQ(job.all<CloseRound>().size(), 1u);
    EXPECT_EQ(job.all<CloseRound>()[0].accepted,
              (std::vector<PartKey>{{RoundId(0), id("c")}, {RoundId(1), id("a")}}));
}

TEST(Async, PauseHoldsVerdictsOnceTheBufferIsFull) {
    Job job(buffered(2, 2, 1, 1));
    for (const char* name : {"a", "b"}) job.join(name);
    job.send(PauseRequested{"ops"});
    EXPECT_TRUE(job.upload("a"));
    EXPECT_TRUE(withholds(job.state()));
    EXPECT_FALSE(job.upload("b"));
    job.send(ResumeRequested{});
    EXPECT_EQ(job.phase(), Phase::Aggregating);
    job.commit();
    EXPECT_TRUE(job.upload("b"));
}

}  // namespace
}  // namespace fedllm::server::round
