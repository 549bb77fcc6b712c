#include "server/round/outlook.hpp"
#include "tests/server/round/support.hpp"

namespace fedllm::server::round {
namespace {

using Names = std::vector<std::string>;

TEST(Round, OpensWhenAllAreThereAndGoesThroughToTheEnd) {
    Job job(rules(2, 2, 2));
    job.send(Tick{});
    EXPECT_EQ(job.waiting(),
              "2 clients with base model 'tiny' (nobody suitable is connected), for 0 s; then round 0 opens");
    job.join("b");
    EXPECT_EQ(job.waiting(),
              "1 client more with base model 'tiny' (connected: b), for 0 s; then round 0 opens");
    job.join("a");
    EXPECT_EQ(job.asked(), (Names{"a", "b"}));
    EXPECT_EQ(job.waiting(),
              "a and b to send updates of round 0 (0 of 2 are in), for 0 s; then round 0 closes");
    EXPECT_TRUE(job.upload("b"));
    EXPECT_EQ(job.waiting(), "a to send updates of round 0 (1 of 2 is in), for 0 s; then round 0 closes");
    EXPECT_TRUE(job.upload("a"));
    EXPECT_EQ(job.phase(), Phase::Aggregating);
    EXPECT_EQ(job.waiting(), "the mean of 2 updates of round 0 to be written, for 0 s; then round 1 opens");
    job.commit();
    EXPECT_EQ(job.asked(), (Names{"a", "b"})) << "the next round opens in the same step";
    EXPECT_EQ(job.all<OpenRound>()[0].model_digest, "d1");
    EXPECT_EQ(job.all<AskClient>()[0].round, RoundId(1));
    EXPECT_TRUE(job.upload("a"));
    EXPECT_TRUE(job.upload("b"));
    job.commit();
    EXPECT_EQ(job.phase(), Phase::FinalEvaluation);
    EXPECT_EQ(job.all<AskClient>()[0].kind, TaskKind::Evaluate);
    EXPECT_EQ(job.all<OpenRound>()[0].model_digest, "d2");
    job.send(EvaluationArrived{id("a"), RoundId(2), 5.0, 10});
    EXPECT_EQ(job.waiting(),
              "b to evaluate the final version (1 answered), for 0 s; then the job is finished");
    job.send(EvaluationArrived{id("b"), RoundId(2), 6.0, 10});
    EXPECT_EQ(job.all<FinishJob>().size(), 1u);
    EXPECT_EQ(job.waiting(), "nothing: the job is finished");
}

TEST(Round, AsksOnlyThoseWithTheBaseModel) {
    Job job(rules(1, 1, 1));
    job.send(ClientJoined{id("other"), {"llama"}});
    EXPECT_EQ(job.phase(), Phase::Waiting);
    job.send(ClientJoined{id("both"), {"llama", "tiny"}});
    EXPECT_EQ(job.asked(), Names{"both"});
}

TEST(Round, OpensWithFewerAfterPatience) {
    Job job(rules(1, 3, 2));
    job.join("a");
    job.tick_at(60'000);
    EXPECT_EQ(job.phase(), Phase::Waiting);
    job.join("b");
    ASSERT_EQ(job.all<WakeAt>().size(), 1u);
    EXPECT_EQ(job.all<WakeAt>()[0].when, at(70'000));
    EXPECT_EQ(
        job.waiting(),
        "1 client more with base model 'tiny' (connected: a and b), for 0 s; round 0 opens in 10 s without");
    job.tick_at(69'999);
    EXPECT_EQ(job.phase(), Phase::Waiting);
    job.tick_at(70'000);
    EXPECT_EQ(job.asked(), (Names{"a", "b"}));
}

TEST(Round, PatienceStartsAgainWhenTooFewAreLeft) {
    Job job(rules(1, 3, 2));
    job.join("a");
    job.join("b");
    job.tick_at(9'000);
    job.leave("a");
    job.join("a");
    job.tick_at(18'999);
    EXPECT_EQ(job.phase(), Phase::Waiting);
    job.tick_at(19'000);
    EXPECT_EQ(job.phase(), Phase::Training);
}

TEST(Round, SelectsTheSameOnesWhateverTheOrderOfArrival) {
    const auto selected = [](const Names& order, std::uint64_t seed) {
        Rules drawn = rules(1, 3, 3);
        drawn.seed = seed;
        JobState state = start(drawn, "d0");
        for (const std::string& name : order) state.connected.insert(id(name));
        return step(state, Tick{}, at(0)).state.parts;
    };
    const Names names{"a", "b", "c", "d", "e", "f"}, reversed(names.rbegin(), names.rend());
    std::set<ClientId> ever;
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
        const auto parts = selected(names, seed);
        EXPECT_EQ(parts.size(), 3u);
        EXPECT_EQ(parts, selected(reversed, seed));
        for (const auto& [key, part] : parts) ever.insert(key.client);
    }
    EXPECT_EQ(ever.size(), 6u) << "everybody has a turn";
}

TEST(Round, WaitsForTheRestAsLongAgainAsTheKthTook) {
    Job job(rules(1, 3, 2));
    for (const char* name : {"a", "b", "c"}) job.join(name);
    job.tick_at(20'000);
    job.upload("a");
    job.tick_at(30'000);
    job.upload("b");
    EXPECT_EQ(job.phase(), Phase::Training);
    EXPECT_EQ(
        job.waiting(),
        "c to send updates of round 0 (2 of at least 2 are in), for 0 s; round 0 closes in 30 s without "
        "the missing");
    EXPECT_EQ(job.all<WakeAt>()[0].when, at(60'000));
    job.tick_at(59'999);
    EXPECT_EQ(job.phase(), Phase::Training);
    job.tick_at(60'000);
    EXPECT_EQ(job.phase(), Phase::Aggregating);
    EXPECT_EQ(job.all<CloseRound>()[0].accepted,
              (std::vector<PartKey>{{RoundId(0), id("a")}, {RoundId(0), id("b")}}));
    ASSERT_EQ(job.all<Release>().size(), 1u);
    EXPECT_EQ(job.all<Release>()[0].client, id("c"));
    EXPECT_EQ(admits(job.state(), RoundId(0), id("c")).error().code, Errc::Stale);
    EXPECT_EQ(admits(job.state(), RoundId(0), id("a")).error().code, Errc::Duplicate);
}

TEST(Round, GraceIsAtLeastTwoSeconds) {
    Job job(rules(1, 2, 1));
    job.join("a");
    job.join("b");
    job.upload("a");
    job.tick_at(1'999);
    EXPECT_EQ(job.phase(), Phase::Training);
    job.tick_at(2'000);
    EXPECT_EQ(job.phase(), Phase::Aggregating);
}

TEST(Round, ClosesAtOnceWhenEverybodySettled) {
    Job job(rules(1, 3, 1));
    for (const char* name : {"a", "b", "c"}) job.join(name);
    job.send(UploadRefused{id("a"), RoundId(0), "not_finite", "tensor x"});
    EXPECT_EQ(job.all<RecordPart>()[0].status, store::PartStatus::Refused);
    EXPECT_EQ(job.all<RecordPart>()[0].reason, "not_finite");
    job.send(ClientDeclined{id("b"), RoundId(0), "policy_refused", ""});
    job.upload("c");
    EXPECT_EQ(job.phase(), Phase::Aggregating);
}

TEST(Round, ReturningClientGetsItsTaskAgain) {
    Job job(rules(1, 2, 2));
    job.join("a");
    job.join("b");
    job.leave("a");
    job.advance(Duration(3'000));
    EXPECT_EQ(
        job.waiting(),
        "a (away for 3 s) and b to send updates of round 0 (0 of 2 are in), for 3 s; then round 0 closes");
    job.join("a");
    EXPECT_EQ(job.asked(), Names{"a"});
    job.upload("a");
    job.join("a");
    EXPECT_TRUE(job.asked().empty()) << "its update is in already";
}

TEST(Round, WhoLeftIsReplacedAfterABlink) {
    Job job(rules(1, 2, 2));
    job.join("a");
    job.join("b");
    job.join("c");
    EXPECT_TRUE(job.asked().empty());
    job.leave("b");
    ASSERT_EQ(job.all<WakeAt>().size(), 1u);
    EXPECT_EQ(job.all<WakeAt>()[0].when, at(2'000));
    job.tick_at(1'999);
    EXPECT_TRUE(job.asked().empty()) << "it may be back in a moment";
    job.tick_at(2'000);
    EXPECT_EQ(job.asked(), Names{"c"});
    EXPECT_EQ(job.all<RecordPart>()[0].status, store::PartStatus::Asked);
    // The lost one comes back: whoever is first counts, never more than N.
    job.join("b");
    EXPECT_TRUE(job.upload("b"));
    EXPECT_TRUE(job.upload("a"));
    EXPECT_EQ(job.phase(), Phase::Aggregating);
    EXPECT_FALSE(job.upload("c"));
    EXPECT_EQ(job.all<Release>()[0].client, id("c"));
}

TEST(Round, RefusalIsReplacedAtOnceAndNeverAskedAgain) {
    Job job(rules(1, 2, 2));
    for (const char* name : {"a", "b", "c"}) job.join(name);
    const ClientId refused = job.state().parts.begin()->first.client;
    job.send(UploadRefused{refused, RoundId(0), "out_of_bounds", ""});
    EXPECT_EQ(job.asked().size(), 1u);
    job.join(refused.get());
    EXPECT_TRUE(job.asked().empty());
}

TEST(Round, WaitsAndSaysWhyWhenNobodyIsLeftToAsk) {
    Job job(rules(1, 2, 2));
    job.join("a");
    job.join("b");
    job.send(UploadRefused{id("a"), RoundId(0), "not_finite", ""});
    job.send(ClientDeclined{id("b"), RoundId(0), "policy_refused", ""});
    job.tick_at(3'600'000);
    EXPECT_EQ(job.phase(), Phase::Training);
    EXPECT_EQ(
        job.waiting(),
        "2 clients more to take part in round 0 (0 of 2 are in, 1 declined, 1 refused), for 60 min; then "
        "round 0 closes");
    job.join("c");
    EXPECT_EQ(job.asked(), Names{"c"});
    job.join("b");  // started again, with another policy
    EXPECT_EQ(job.asked(), Names{"b"});
    EXPECT_TRUE(job.upload("b"));
    EXPECT_TRUE(job.upload("c"));
    EXPECT_EQ(job.phase(), Phase::Aggregating);
}

TEST(Round, WhatComesAtTheWrongTimeChangesNothing) {
    Job job(rules(2, 1, 1));
    job.join("a");
    job.join("b");
    const std::vector<Event> wrong{UploadAccepted{id("zz"), RoundId(0)},
                                   UploadAccepted{id("a"), RoundId(1)},
                                   UploadRefused{id("zz"), RoundId(0), "", ""},
                                   ClientDeclined{id("a"), RoundId(7), "", ""},
                                   EvaluationArrived{id("a"), RoundId(0), 1, 1},
                                   RoundCommitted{RoundId(0), "dx"},
                                   AggregationFailed{"no"},
                                   ClientLeft{id("zz")}};
    for (const Event& event : wrong) {
        const JobState before = job.state();
        job.send(event);
        EXPECT_EQ(job.state(), before) << "event " << event.index();
    }
    EXPECT_EQ(admits(job.state(), RoundId(1), id("a")).error().code, Errc::Stale);
    EXPECT_EQ(admits(job.state(), RoundId(0), id("zz")).error().code, Errc::Stale);
}

TEST(Round, FailsWithItsCauseAndThenStaysQuiet) {
    Job job(rules(1, 1, 1));
    job.join("a");
    job.upload("a");
    job.send(AggregationFailed{"disk is full"});
    EXPECT_EQ(job.all<FailJob>()[0].cause, "disk is full");
    EXPECT_EQ(job.waiting(), "nothing: the job failed: disk is full");
    job.join("b");
    EXPECT_TRUE(job.send(StopRequested{"again"}).empty());
    Job stopped(rules(1, 1, 1));
    stopped.join("a");
    stopped.send(StopRequested{"stopped by ops"});
    EXPECT_EQ(stopped.all<Release>()[0].client, id("a"));
    EXPECT_EQ(stopped.phase(), Phase::Stopped);
    EXPECT_EQ(stopped.all<StopJob>()[0].cause, "stopped by ops");
    EXPECT_EQ(stopped.waiting(), "nothing: the job was stopped: stopped by ops");
    stopped.restart();
    EXPECT_EQ(stopped.phase(), Phase::Stopped) << "not failed: somebody wanted it";
}

TEST(Pause, ReleasesEverybodyKeepsWhatIsInAndGoesOn) {
    Job job(rules(1, 3, 2));
    for (const char* name : {"a", "b", "c"}) job.join(name);
    job.tick_at(10'000);
    job.upload("a");
    job.send(PauseRequested{"ops: maintenance"});
    EXPECT_EQ(job.all<PauseJob>()[0].cause, "ops: maintenance");
    EXPECT_EQ(job.all<Release>().size(), 2u) << "b and c";
    EXPECT_TRUE(job.all<WakeAt>().empty());
    job.tick_at(20'000);
    EXPECT_EQ(
        job.waiting(),
        "somebody to resume the job, which was paused: ops: maintenance, for 10 s; then round 0 goes on");
    job.leave("c");
    job.join("b");
    EXPECT_TRUE(job.asked().empty()) << "no task goes out";
    EXPECT_TRUE(job.upload("b")) << "it had finished before it heard of the pause";
    job.tick_at(3'600'000);
    EXPECT_EQ(job.phase(), Phase::Training) << "no round closes";
    job.join("c");
    job.send(ResumeRequested{});
    EXPECT_EQ(job.asked(), Names{"c"});
    EXPECT_TRUE(job.upload("c"));
    EXPECT_EQ(job.phase(), Phase::Aggregating);
}

TEST(Pause, SurvivesARestartAndLetsTheCommitThrough) {
    Job job(rules(2, 1, 1));
    job.join("a");
    job.upload("a");
    job.send(PauseRequested{"ops"});
    EXPECT_TRUE(job.send(PauseRequested{"again"}).empty());
    job.commit();
    EXPECT_EQ(job.phase(), Phase::Waiting) << "the next round does not open";
    job.restart();
    job.join("a");
    EXPECT_EQ(job.phase(), Phase::Waiting);
    EXPECT_EQ(job.state().paused->cause, "ops");
    job.send(ResumeRequested{});
    EXPECT_EQ(job.asked(), Names{"a"});
    EXPECT_EQ(job.all<AskClient>()[0].round, RoundId(1));
}

TEST(FinalEvaluation, DoesNotWaitForeverForThoseWhoLeft) {
    Job job(rules(1, 2, 1));
    job.join("a");
    job.join("b");
    job.upload("a");
    job.upload("b");
    job.commit();
    job.leave("b");
    job.send(EvaluationArrived{id("a"), RoundId(1), 1.0, 1});
    EXPECT_EQ(job.phase(), Phase::FinalEvaluation);
    job.tick_at(2'000);
    EXPECT_EQ(job.phase(), Phase::Finished);
}

TEST(FinalEvaluation, EndsNoJobWhoseVersionIsNotDelivered) {
    Job job(rules(2, 1, 1));
    job.join("a");
    job.upload("a");
    job.commit_alone();
    job.deliver();  // the first of two: says nothing about the last
    job.upload("a");
    job.commit_alone();
    EXPECT_EQ(job.asked(), Names{"a"}) << "it is evaluated meanwhile";
    job.send(EvaluationArrived{id("a"), RoundId(2), 1.0, 1});
    EXPECT_EQ(job.waiting(),
              "the final version to be on the disk, and its adapter, for 0 s; then the job is finished");
    job.tick_at(100'000);
    EXPECT_EQ(job.phase(), Phase::FinalEvaluation);
    EXPECT_FALSE(job.recovered().delivered) << "a new process looks again";
    EXPECT_FALSE(closes_at(job.state())) << "nobody knows when";
    job.deliver();
    EXPECT_EQ(job.phase(), Phase::Finished);
}

TEST(FinalEvaluation, FailsWhereTheAdapterCannotBeWritten) {
    Job job(rules(1, 1, 1));
    job.join("a");
    job.upload("a");
    job.commit_alone();
    job.send(AggregationFailed{"no such shape"});
    EXPECT_EQ(job.phase(), Phase::Failed);
    EXPECT_EQ(job.all<Release>().size(), 1u);
    EXPECT_EQ(job.waiting(), "nothing: the job failed: no such shape");
}

TEST(FinalEvaluation, WaitsAMomentWhenNobodyIsThere) {
    Job job(rules(1, 1, 1));
    job.join("a");
    job.upload("a");
    job.leave("a");
    job.commit();
    EXPECT_EQ(job.phase(), Phase::FinalEvaluation);
    job.tick_at(5'000);
    job.join("b");
    EXPECT_EQ(job.asked(), Names{"b"});
    job.leave("b");
    job.tick_at(14'999);
    EXPECT_EQ(job.phase(), Phase::FinalEvaluation);
    job.tick_at(15'000);
    EXPECT_EQ(job.phase(), Phase::Finished);
}

TEST(Recovery, ContinuesARoundAndCountsWhatWasAccepted) {
    Job job(rules(1, 3, 2));
    for (const char* name : {"a", "b", "c"}) job.join(name);
    job.tick_at(4'000);
    job.upload("b");
    job.tick_at(5'000);
    job.advance(Duration(8 * 3'600'000));  // a night of downtime
    job.restart();
    EXPECT_EQ(job.phase(), Phase::Training);
    EXPECT_EQ(job.state().parts.find({RoundId(0), id("b")})->state, PartState::Accepted);
    job.join("b");
    EXPECT_TRUE(job.asked().empty());
    job.join("c");
    EXPECT_EQ(job.asked(), Names{"c"});
    EXPECT_TRUE(job.upload("c"));
    EXPECT_EQ(job.phase(), Phase::Training) << "a gets a moment to come back";
    // The night is not counted: the missing one gets patience, not another eight hours.
    const Timestamp back = job.now();
    job.advance(Duration(9'999));
    job.send(Tick{});
    EXPECT_EQ(job.phase(), Phase::Training);
    job.advance(back + Duration(10'000) - job.now());
    job.send(Tick{});
    EXPECT_EQ(job.phase(), Phase::Aggregating);
}

TEST(Recovery, AskedClientsGetTheChanceToReturnBeforeOthersAreAsked) {
    Job job(rules(1, 2, 2));
    for (const char* name : {"a", "b", "c", "d"}) job.join(name);
    const auto parts = job.state().parts;
    job.restart();
    for (const char* name : {"a", "b", "c", "d"}) {
        job.join(name);
        EXPECT_EQ(job.asked(), parts.find({RoundId(0), id(name)}) ? Names{name} : Names{});
    }
}

TEST(Recovery, ClosingRoundIsClosedAgainWithTheSameUpdates) {
    Job job(rules(1, 3, 2));
    for (const char* name : {"a", "b", "c"}) job.join(name);
    job.upload("a");
    job.upload("c");
    job.tick_at(10'000);
    ASSERT_EQ(job.phase(), Phase::Aggregating);
    job.restart();
    ASSERT_EQ(job.all<CloseRound>().size(), 1u);
    EXPECT_EQ(job.all<CloseRound>()[0].accepted,
              (std::vector<PartKey>{{RoundId(0), id("a")}, {RoundId(0), id("c")}}));
    job.join("b");
    EXPECT_FALSE(job.upload("b"));
}

TEST(Recovery, BetweenRoundsAndAfterTheEnd) {
    Job job(rules(1, 1, 1));
    job.restart();
    EXPECT_EQ(job.phase(), Phase::Waiting);
    job.join("a");
    job.upload("a");
    job.commit();
    job.restart();
    EXPECT_EQ(job.phase(), Phase::FinalEvaluation);
    job.join("a");
    EXPECT_EQ(job.asked(), Names{"a"});
    job.send(EvaluationArrived{id("a"), RoundId(1), 1, 1});
    job.tick_at(10'000);
    EXPECT_EQ(job.phase(), Phase::Finished);
    job.restart();
    EXPECT_EQ(job.phase(), Phase::Finished);
}

// ---------------------------------------------------------------------------------------- several jobs

TEST(Round, AsksNobodyWhomAnotherJobHolds) {
    Job job(rules(1, 2, 2));
    job.send(Tick{});
    job.join("a");
    job.send(ClientBusy{id("a")});
    job.join("b");
    EXPECT_EQ(job.phase(), Phase::Waiting);
    job.send(ClientFree{id("a")});
    EXPECT_EQ(job.phase(), Phase::Training);
}

TEST(Round, TheFinalEvaluationWaitsForThoseWhomAnotherJobHolds) {
    Job job(rules(1, 1, 1));
    job.send(Tick{});
    job.join("a");
    job.send(ClientBusy{id("b")});
    job.upload("a");
    job.commit();
    ASSERT_EQ(job.phase(), Phase::FinalEvaluation);
    job.send(EvaluationArrived{id("a"), job.state().round, 1.0, 1});
    EXPECT_EQ(job.phase(), Phase::FinalEvaluation);
    job.send(ClientFree{id("b")});
    ASSERT_EQ(job.phase(), Phase::FinalEvaluation);
    job.send(EvaluationArrived{id("b"), job.state().round, 1.0, 1});
    EXPECT_EQ(job.phase(), Phase::Finished);
}

}  // namespace
}  // namespace fedllm::server::round
