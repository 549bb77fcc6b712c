#include "server/round/schedule.hpp"

#include "tests/server/round/support.hpp"

namespace fedllm::server::round {
namespace {

const JobId kFirst("j1"), kSecond("j2");

std::vector<Tidings> all_tidings(Schedule& schedule) {
    std::vector<Tidings> all;
    while (auto one = schedule.next()) all.push_back(*one);
    return all;
}

Schedule two_jobs(std::uint32_t priority_of_first, std::uint32_t priority_of_second) {
    Schedule schedule;
    schedule.add(kFirst, priority_of_first, "tiny");
    schedule.add(kSecond, priority_of_second, "tiny");
    return schedule;
}

TEST(Schedule, EachClientIsToldToThoseThatCanUseItOnce) {
    Schedule schedule = two_jobs(0, 0);
    schedule.add(JobId("j3"), 9, "llama");
    schedule.join(id("a"), {"tiny"});
    EXPECT_EQ(all_tidings(schedule),
              (std::vector<Tidings>{{kFirst, id("a"), true}, {kSecond, id("a"), true}}));
    EXPECT_TRUE(all_tidings(schedule).empty());
    schedule.take(kFirst, id("a"));
    EXPECT_EQ(all_tidings(schedule), (std::vector<Tidings>{{kSecond, id("a"), false}}));
    schedule.take(kSecond, id("a"));
    EXPECT_EQ(*schedule.holder(id("a")), kFirst) << "one task at a time";
    schedule.release(kSecond, id("a"));
    EXPECT_EQ(*schedule.holder(id("a")), kFirst);
    schedule.release(kFirst, id("a"));
    EXPECT_EQ(all_tidings(schedule), (std::vector<Tidings>{{kSecond, id("a"), true}}));
    schedule.take(kSecond, id("a"));
    schedule.remove(kSecond);
    EXPECT_EQ(schedule.holder(id("a")), nullptr);
}

TEST(Schedule, HigherPriorityGathersFirstThenWhoWaitedLongest) {
    Schedule schedule = two_jobs(0, 5);
    schedule.update(kFirst, true, at(0));
    schedule.update(kSecond, true, at(9));
    EXPECT_EQ(schedule.order().front(), kSecond);
    schedule.join(id("a"), {"tiny"});
    EXPECT_EQ(all_tidings(schedule),
              (std::vector<Tidings>{{kSecond, id("a"), true}, {kFirst, id("a"), false}}));
    schedule.update(kSecond, false, at(10));
    EXPECT_EQ(all_tidings(schedule), (std::vector<Tidings>{{kFirst, id("a"), true}}))
        << "it has what it needs";

    Schedule equal = two_jobs(3, 3);
    equal.update(kFirst, true, at(20));
    equal.update(kSecond, true, at(10));
    equal.join(id("a"), {"tiny"});
    EXPECT_TRUE(equal.sees(kSecond, id("a")));
    EXPECT_FALSE(equal.sees(kFirst, id("a")));
    equal.update(kSecond, true, at(30));
    EXPECT_FALSE(equal.sees(kSecond, id("a")));
    equal.take(kSecond, id("a"));
    EXPECT_TRUE(equal.sees(kSecond, id("a"))) << "nothing is taken from it";
    EXPECT_FALSE(equal.sees(kSecond, id("a"), true)) << "but afterwards the other has waited longer";
}

TEST(Schedule, WhoCannotHaveEnoughGathersNobody) {
    Job job(rules(2, 3, 2));
    job.send(Tick{});
    job.join("a");
    EXPECT_FALSE(gathers(job.state()));
    job.send(ClientBusy{id("b")});
    EXPECT_TRUE(gathers(job.state())) << "b comes back from the other job";
    job.send(ClientFree{id("b")});
    job.join("c");
    EXPECT_EQ(job.phase(), Phase::Training);
    EXPECT_FALSE(gathers(job.state()));
    job.send(ClientDeclined{id("a"), RoundId(0), "policy_refused", ""});
    job.send(ClientDeclined{id("b"), RoundId(0), "policy_refused", ""});
    EXPECT_FALSE(gathers(job.state())) << "nobody is left to ask: others' clients would wait for nothing";
    job.send(ClientBusy{id("c")});
    job.send(ClientBusy{id("d")});
    EXPECT_TRUE(gathers(job.state())) << "to save the round";
    job.send(PauseRequested{"ops"});
    EXPECT_FALSE(gathers(job.state()));
}

// Two jobs under the schedule, as the engine runs them: each round of each finds its clients.
class Federation {
public:
    explicit Federation(const std::vector<Rules>& rules, const std::vector<std::uint32_t>& priorities) {
        for (std::size_t i = 0; i < rules.size(); ++i) {
            jobs_.emplace_back(rules[i]);
            schedule_.add(rules[i].job, priorities[i], "tiny");
            send(i, Tick{});
        }
    }
    void join(const std::string& name) {
        schedule_.join(id(name), {"tiny"});
        spread();
    }
    // Everybody at work answers, one after another; what is closed is committed.
    void pass_a_second() {
        for (auto& job : jobs_) job.advance(Duration(1'000));
        for (std::size_t i = 0; i < jobs_.size(); ++i) {
            send(i, Tick{});
            const Parts parts = jobs_[i].state().parts;
            for (const auto& [key, part] : parts) {
                if (part.state != PartState::Asked || jobs_[i].state().parts.task_of(key.client) != key)
                    continue;
                if (!schedule_.sees(jobs_[i].state().rules.job, key.client, true)) {
                    send(i, ClientBusy{key.client});
                    schedule_.told({jobs_[i].state().rules.job, key.client, false});
                }
                if (jobs_[i].phase() == Phase::FinalEvaluation) {
                    send(i, EvaluationArrived{key.client, key.round, 1.0, 1});
                } else if (jobs_[i].upload(key.client.get(), key.round)) {
                    after(i);
                }
            }
        }
        for (std::size_t i = 0; i < jobs_.size(); ++i) {
            if (jobs_[i].phase() != Phase::Aggregating) continue;
            jobs_[i].commit();
            after(i);
        }
    }
    const Job& job(std::size_t i) const { return jobs_[i]; }

private:
    void send(std::size_t i, const Event& event) {
        jobs_[i].send(event);
        after(i);
    }
    void after(std::size_t i) {
        Job& job = jobs_[i];
        const JobId& name = job.state().rules.job;
        for (const std::string& client : job.asked()) {
            EXPECT_TRUE(!schedule_.holder(id(client)) || *schedule_.holder(id(client)) == name) << client;
            schedule_.take(name, id(client));
        }
        for (const Release& release : job.all<Release>()) schedule_.release(name, release.client);
        for (const char* client : {"a", "b", "c", "d"}) {
            if (!is_asked(job.state(), id(client))) schedule_.release(name, id(client));
        }
        if (!job.all<OpenRound>().empty()) opened_[name] = ++openings_;
        schedule_.update(name, gathers(job.state()), at(opened_[name]));
        spread();
    }
    void spread() {
        while (const auto tidings = schedule_.next()) {
            const std::size_t i = tidings->job == jobs_[0].state().rules.job ? 0 : 1;
            send(i, tidings->free ? Event(ClientFree{tidings->client}) : Event(ClientBusy{tidings->client}));
        }
    }

    std::vector<Job> jobs_;
    Schedule schedule_;
    std::map<JobId, int> opened_;
    int openings_ = 0;
};

Rules named(const JobId& job, Rules rules) {
    rules.job = job;
    return rules;
}

TEST(Schedule, EqualJobsTakeTurnsAndBothEnd) {
    Federation two({named(kFirst, rules(6, 4, 4)), named(kSecond, rules(6, 4, 4))}, {0, 0});
    for (const char* name : {"a", "b", "c", "d"}) two.join(name);
    for (int second = 0; second < 60; ++second) {
        two.pass_a_second();
        const auto first = static_cast<int>(two.job(0).commits()),
                   other = static_cast<int>(two.job(1).commits());
        EXPECT_LE(std::abs(first - other), 1) << first << " and " << other;
        if (::testing::Test::HasFailure()) return;
    }
    EXPECT_EQ(two.job(0).phase(), Phase::Finished);
    EXPECT_EQ(two.job(1).phase(), Phase::Finished);
}

TEST(Schedule, HigherPriorityRunsThroughFirst) {
    Federation two({named(kFirst, rules(4, 3, 3)), named(kSecond, rules(4, 3, 3))}, {0, 1});
    for (const char* name : {"a", "b", "c"}) two.join(name);
    for (int second = 0; second < 60 && two.job(1).commits() < 4; ++second) {
        two.pass_a_second();
        EXPECT_LE(two.job(0).commits(), 1u) << "what had begun before the other could gather";
    }
    EXPECT_EQ(two.job(1).commits(), 4u);
    for (int second = 0; second < 60; ++second) two.pass_a_second();
    EXPECT_EQ(two.job(0).phase(), Phase::Finished);
}

TEST(Schedule, SynchronousJobFindsItsClientsBesideAnAsynchronousOne) {
    Rules buffered = rules(40, 4, 1);
    buffered.asynchronous = true;
    buffered.buffer = 2;
    buffered.staleness_max = 8;
    Federation two({named(kFirst, buffered), named(kSecond, rules(5, 4, 4))}, {0, 0});
    for (const char* name : {"a", "b", "c", "d"}) two.join(name);
    for (int second = 0; second < 200; ++second) two.pass_a_second();
    EXPECT_EQ(two.job(1).phase(), Phase::Finished);
    EXPECT_EQ(two.job(0).phase(), Phase::Finished);
}

}  // namespace
}  // namespace fedllm::server::round
