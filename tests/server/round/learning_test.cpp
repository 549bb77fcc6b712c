// What the machine makes of what it has seen: whom it asks, how long it waits, whom it replaces.
#include <algorithm>

#include "tests/server/round/support.hpp"

namespace fedllm::server::round {
namespace {

using Names = std::vector<std::string>;

// Rounds in which each client answers after its own time.
void run_rounds(Job& job, int rounds, const std::map<std::string, int>& answers) {
    for (int i = 0; i < rounds; ++i) {
        const Timestamp opened = job.now();
        std::vector<std::pair<int, std::string>> order;
        for (const auto& [name, time] : answers) order.emplace_back(time, name);
        std::sort(order.begin(), order.end());
        for (const auto& [time, name] : order) {
            job.advance(opened + Duration(time) - job.now());
            job.upload(name);
        }
        ASSERT_EQ(job.phase(), Phase::Aggregating);
        job.commit();
    }
}

Names at_work(const Job& job) {
    Names names;
    for (const auto& [key, part] : job.state().parts) {
        if (part.state == PartState::Asked) names.push_back(key.client.get());
    }
    return names;
}

TEST(Learning, AsksMoreThanNAfterDropOuts) {
    Job job(rules(9, 4, 1));
    for (const char* name : {"a", "b", "c", "d", "e", "f", "g", "h"}) job.join(name);
    EXPECT_EQ(at_work(job).size(), 4u) << "nothing learned yet";
    for (int round = 0; round < 4; ++round) {
        const Names names = at_work(job);
        job.upload(names[0]);
        for (std::size_t i = 1; i < names.size(); ++i) {
            job.send(ClientDeclined{id(names[i]), job.state().round, "policy_refused", ""});
        }
        ASSERT_EQ(job.phase(), Phase::Aggregating);
        job.commit();
    }
    EXPECT_GT(job.state().history.drop_out_rate(), 1.0 / 3);
    EXPECT_EQ(at_work(job).size(), 6u) << "half as many again";
    const History before = job.state().history;
    job.restart();
    EXPECT_EQ(job.state().history, before) << "the ledger remembers";
}

TEST(Learning, LateIsNoDropOutButLostIs) {
    Job job(rules(3, 3, 1));
    for (const char* name : {"a", "b", "c"}) job.join(name);
    job.tick_at(10'000);
    job.upload("a");
    job.leave("b");
    job.tick_at(20'000);
    ASSERT_EQ(job.phase(), Phase::Aggregating);
    const auto close = job.all<CloseRound>().at(0);
    ASSERT_EQ(close.dropped.size(), 2u);
    EXPECT_EQ(close.dropped[0].part.client, id("b"));
    EXPECT_EQ(close.dropped[0].reason, kLost);
    EXPECT_EQ(close.dropped[1].reason, kLate);
    EXPECT_DOUBLE_EQ(job.state().history.drop_out_rate(), 2.0 / 23.0);
}

TEST(Learning, ClientIsLateByItsOwnUsualTime) {
    Job job(rules(9, 3, 2));
    for (const char* name : {"a", "b", "c"}) job.join(name);
    run_rounds(job, 3, {{"a", 20'000}, {"b", 30'000}, {"c", 32'000}});
    const Timestamp opened = job.now();
    job.advance(Duration(20'000));
    job.upload("a");
    job.advance(Duration(10'000));
    job.upload("b");
    // Without a history c would have until 60 s.
    ASSERT_EQ(job.all<WakeAt>().size(), 1u);
    EXPECT_EQ(job.all<WakeAt>()[0].when, opened + Duration(40'000)) << "its 32 s and a quarter";
    EXPECT_EQ(
        job.waiting(),
        "c to send updates of round 3 (2 of at least 2 are in), for 0 s; round 3 closes in 10 s without "
        "the missing");
    job.advance(Duration(10'000));
    job.send(Tick{});
    EXPECT_EQ(job.phase(), Phase::Aggregating);
}

TEST(Learning, SlowClientIsWaitedForButNotForever) {
    Job job(rules(9, 3, 2));
    for (const char* name : {"a", "b", "c"}) job.join(name);
    job.send(SignOfLife{id("c")});
    run_rounds(job, 3, {{"a", 10'000}, {"b", 10'000}, {"c", 19'000}});
    const Timestamp opened = job.now();
    job.advance(Duration(5'000));
    job.upload("a");
    job.upload("b");
    EXPECT_EQ(job.all<WakeAt>()[0].when, opened + Duration(20'000))
        << "four times the K-th's 5 s, not 23.75 s";
}

TEST(Learning, AbsenceIsExpectedToBeAsLongAsBefore) {
    Job job(rules(9, 2, 2));
    job.join("a");
    job.join("b");
    job.leave("a");
    job.tick_at(6'000);
    job.join("a");  // away for 6 s: usual from now on
    job.join("c");
    job.leave("a");
    EXPECT_EQ(job.all<WakeAt>()[0].when, at(6'000 + 7'500));
    job.tick_at(13'499);
    EXPECT_TRUE(job.asked().empty());
    job.tick_at(13'500);
    EXPECT_EQ(job.asked(), Names{"c"});
}

TEST(Lease, SilentClientIsReplacedAndItsUpdateStillTaken) {
    Job job(rules(1, 2, 2));
    for (const char* name : {"a", "b"}) job.join(name);
    job.join("c");
    job.tick_at(59'000);
    job.send(SignOfLife{id("b")});
    EXPECT_EQ(job.all<WakeAt>()[0].when, at(60'000));
    job.tick_at(60'000);
    EXPECT_EQ(job.asked(), Names{"c"});
    EXPECT_TRUE(job.all<Release>().empty()) << "it may still come";
    EXPECT_EQ(
        job.waiting(),
        "a (silent for 60 s), b and c to send updates of round 0 (0 of 2 are in), for 60 s; then round 0 "
        "closes");
    EXPECT_TRUE(job.upload("a"));
    EXPECT_TRUE(job.upload("b"));
    EXPECT_EQ(job.phase(), Phase::Aggregating);
    EXPECT_FALSE(job.upload("c")) << "two count, never three";
    EXPECT_EQ(job.all<Release>()[0].client, id("c"));
}

TEST(Lease, SignOfLifeKeepsTheTask) {
    Job job(rules(1, 2, 2));
    for (const char* name : {"a", "b", "c"}) job.join(name);
    for (int second = 30; second <= 600; second += 30) {
        job.tick_at(second * 1'000);
        EXPECT_TRUE(job.asked().empty());
        for (const auto& [key, part] : Parts(job.state().parts)) job.send(SignOfLife{key.client});
    }
}

TEST(Pause, TimeStandsStill) {
    Job job(rules(1, 3, 1));
    for (const char* name : {"a", "b", "c"}) job.join(name);
    job.tick_at(5'000);
    job.upload("a");
    job.send(PauseRequested{"ops"});
    job.tick_at(1'000'000);
    job.send(ResumeRequested{});
    EXPECT_EQ(job.all<WakeAt>()[0].when, at(1'005'000))
        << "five seconds after the first, not counting the pause";
    EXPECT_EQ(job.phase(), Phase::Training);
}

TEST(Clock, SetBackChangesNothing) {
    Job job(rules(1, 2, 1));
    job.join("a");
    job.join("b");
    job.tick_at(4'000);
    job.upload("a");
    job.tick_at(-900'000);
    EXPECT_EQ(job.all<WakeAt>()[0].when, at(-896'000));
    job.tick_at(-896'000);
    EXPECT_EQ(job.phase(), Phase::Aggregating);
}

}  // namespace
}  // namespace fedllm::server::round
