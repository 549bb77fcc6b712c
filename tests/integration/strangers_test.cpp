// Strangers at the door in thousands, and members who try to be somebody else: the round goes on. The long
// form, with FEDLLM_LONG=1, holds 10,000 half-open connections and 1,000 slow handshakes for two
// minutes. How much longer a round takes beside them: tests/bench/server/door_bench.cpp.
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "tests/integration/crowd.hpp"
#include "tests/support/strangers.hpp"

namespace fedllm::test {
namespace {

using namespace std::chrono_literals;

double resident_bytes(const Federation& federation) {
    return federation.metric("fedllm_process_resident_bytes");
}

// Seconds that one job of `rounds` rounds takes two truthful clients.
double seconds_of(Federation& federation, const std::string& job, std::uint32_t rounds) {
    TinyJob{.clients = 2, .minimum = 2, .rounds = rounds}.submit(federation);
    Crowd crowd(federation, {job + "-ash", job + "-birch"}, [](int) {});
    const double began = monotonic_seconds();
    EXPECT_NE(crowd.run(job), "");
    return monotonic_seconds() - began;
}

bool enough_descriptors(rlim_t needed) {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    const rlimit wanted{.rlim_cur = limit.rlim_max, .rlim_max = limit.rlim_max};
    return ::setrlimit(RLIMIT_NOFILE, &wanted) == 0 && limit.rlim_max >= needed;
}

// Seconds until a client that was not there before is greeted.
double seconds_of_a_newcomer(Federation& federation, const std::string& name) {
    Loop loop;
    Peer peer(federation.invite(name));
    const double began = monotonic_seconds();
    const auto greeted = loop.run(peer.connect(federation.port()));
    EXPECT_TRUE(greeted) << to_string(greeted.error());
    return monotonic_seconds() - began;
}

TEST(Strangers, AThousandAtTheDoorDoNotStopARound) {
    if (!enough_descriptors(2000)) GTEST_SKIP() << "needs 2,000 descriptors";
    Federation federation;
    federation.configure([](auto& config) { config.limits.connections_max = 300; });
    federation.start();
    const double before = resident_bytes(federation);
    Strangers strangers({.port = federation.port(), .half_open = 900, .slow = 100});
    const auto refused = [](const char* why) {
        return "fedllm_connections_refused_total{reason=\"" + std::string(why) + "\"}";
    };
    EXPECT_GE(federation.metric_from(refused("connections_max"), 100), 100)
        << "the door is full, and they come again";
    const double newcomer = seconds_of_a_newcomer(federation, "rowan");
    const double seconds = seconds_of(federation, "j1", 10);
    std::printf("10 rounds in %.2f s beside 1,000 strangers who came %llu times; a newcomer waited %.2f s\n",
                seconds, static_cast<unsigned long long>(strangers.arrivals()), newcomer);
    EXPECT_EQ(federation.metric(refused("unauthenticated_max")), 0) << "none of them cost a handshake";
    if (kMemoryIsItsOwn) {
        EXPECT_LE(resident_bytes(federation) - before, 16.0 * (1 << 20));
    }
    EXPECT_EQ(federation.terminate(), 0);
}

TEST(StrangersLong, TenThousandForTwoMinutes) {
    if (std::getenv("FEDLLM_LONG") == nullptr) GTEST_SKIP() << "takes minutes: FEDLLM_LONG=1";
    if (!enough_descriptors(12'000)) GTEST_SKIP() << "needs 12,000 descriptors";
    Federation federation;
    federation.start();
    const int rounds = 20;
    std::vector<double> quiet, loud;
    int job = 0, most = 0;
    const auto next_job = [&] { return std::string("j").append(std::to_string(++job)); };
    double slowest = 0;
    for (int i = 0; i < 5; ++i) quiet.push_back(seconds_of(federation, next_job(), rounds));
    const double before = resident_bytes(federation);
    {
        Strangers strangers({.port = federation.port(), .half_open = 10'000, .slow = 1000});
        std::this_thread::sleep_for(5s);
        for (const double began = monotonic_seconds(); monotonic_seconds() - began < 115;) {
            loud.push_back(seconds_of(federation, next_job(), rounds));
            slowest = std::max(
                slowest, seconds_of_a_newcomer(federation, std::string("new-").append(std::to_string(job))));
            most = std::max(most, strangers.present());
        }
        std::printf("%llu arrivals, up to %d present, memory grew by %.1f MiB\n",
                    static_cast<unsigned long long>(strangers.arrivals()), most,
                    (resident_bytes(federation) - before) / (1 << 20));
        std::printf("the slowest of %zu newcomers waited %.2f s\n", loud.size(), slowest);
        if (kMemoryIsItsOwn) {
            EXPECT_LE(resident_bytes(federation) - before, 96.0 * (1 << 20));
        }
    }
    std::sort(quiet.begin(), quiet.end());
    std::sort(loud.begin(), loud.end());
    const double quiet_median = quiet[quiet.size() / 2] / rounds,
                 loud_median = loud[loud.size() / 2] / rounds;
    std::printf("a round: %.2f ms alone, %.2f ms beside 11,000 strangers: %+.1f %%\n", quiet_median * 1e3,
                loud_median * 1e3, (loud_median / quiet_median - 1) * 100);
}

// ------------------------------------------------------------------------------------------------ other
// people's work

class OtherPeople : public testing::Test {
protected:
    void SetUp() override {
        federation_.start();
        for (Peer* const peer : {&ash_, &mallory_}) ASSERT_TRUE(loop_.run(peer->connect(federation_.port())));
        TinyJob{.clients = 2, .minimum = 2, .rounds = 2}.submit(federation_);
        for (Peer* const peer : {&ash_, &mallory_}) ASSERT_TRUE(loop_.run(peer->next())->has_task());
    }
    // A connection's offence is counted when it has ended, which a polite peer may hold up by a second.
    void expect_counted(const std::string& why, double times) {
        const std::string series = "fedllm_messages_refused_total{reason=\"" + why + "\"}";
        EXPECT_EQ(federation_.metric_from(series, times), times) << why;
    }
    void says(const protocol::ClientMessage& message) { ASSERT_TRUE(loop_.run(mallory_.send(message))); }

    Federation federation_;
    Loop loop_;
    Peer ash_{federation_.invite("ash")}, mallory_{federation_.invite("mallory")};
};

// Each thing that a client can say about a task, about somebody else's.
TEST_F(OtherPeople, NobodyActsForAnother) {
    const std::string theirs = "j1/0/ash";
    const auto bytes = encoded(honest_values(theirs));
    protocol::ClientMessage progress, evaluation, decline, fetch;
    progress.mutable_progress()->set_task_id(theirs);
    progress.mutable_progress()->set_step(9);
    progress.mutable_progress()->set_steps(9);
    evaluation.mutable_evaluation()->set_task_id(theirs);
    evaluation.mutable_evaluation()->set_tokens(5);
    evaluation.mutable_evaluation()->set_loss_sum(5);
    decline.mutable_decline()->set_task_id(theirs);
    decline.mutable_decline()->set_reason("out_of_memory");
    fetch.mutable_fetch()->set_task_id(theirs);
    fetch.mutable_fetch()->set_digest(std::string(64, 'a'));
    for (const auto& message : {progress, evaluation, decline, fetch}) says(message);
    ASSERT_TRUE(loop_.run(mallory_.send(truthful_offer(theirs, bytes))));
    const auto verdict = loop_.run(mallory_.next());
    ASSERT_TRUE(verdict && verdict->has_verdict());
    EXPECT_EQ(verdict->verdict().reason(), name(Errc::PermissionDenied));

    // Ash's task is as it was: offered, taken and counted.
    ASSERT_TRUE(loop_.run(ash_.send(truthful_offer(theirs, bytes))));
    const auto proceed = loop_.run(ash_.next());
    ASSERT_TRUE(proceed && proceed->has_proceed()) << proceed->ShortDebugString();
    EXPECT_EQ(proceed->proceed().offset(), 0u);
    ASSERT_TRUE(loop_.run(ash_.send_bytes(0, bytes)));
    const auto accepted = loop_.run(ash_.next());
    ASSERT_TRUE(accepted && accepted->has_verdict()) << accepted->ShortDebugString();
    EXPECT_EQ(accepted->verdict().outcome(), protocol::OUTCOME_ACCEPTED);
}

TEST_F(OtherPeople, AClientIsNoOperator) {
    protocol::ClientMessage list, show, submit, control, why, audit;
    list.mutable_list_jobs();
    show.mutable_show_job()->set_job_id("j1");
    submit.mutable_submit_job()->set_job("name: x");
    submit.mutable_submit_job()->set_initial_digest(std::string(64, 'a'));
    submit.mutable_submit_job()->set_initial_bytes(10);
    control.mutable_control_job()->set_job_id("j1");
    control.mutable_control_job()->set_action(protocol::JOB_ACTION_STOP);
    why.mutable_why()->set_subject("ash");
    audit.mutable_audit_job()->set_job_id("j1");
    for (const auto& message : {list, show, submit, control, why, audit}) {
        ASSERT_TRUE(loop_.run(mallory_.connect(federation_.port())));
        says(message);
        const auto answer = loop_.run([](Peer& peer) -> awaitable<Result<protocol::ServerMessage>> {
            for (;;) {  // its task comes first, once more
                FEDLLM_CO_TRY(const auto next, co_await peer.next());
                if (!next.has_task()) co_return next;
            }
        }(mallory_));
        if (answer) {
            EXPECT_TRUE(answer->has_goodbye()) << answer->ShortDebugString();
        }
    }
    expect_counted("out_of_order", 6);
    const auto link = federation_.operator_link();
    ASSERT_TRUE(link);
    EXPECT_EQ((*link)->show_job(JobId("j1"))->summary().state(), "running") << "nobody stopped it";
}

// A message of the largest size that is nothing but empty elements, which Protobuf would blow up a
// hundredfold.
TEST_F(OtherPeople, ABombOfEmptyElementsIsRefusedBeforeItGoesOff) {
    const double before = resident_bytes(federation_);
    for (int i = 0; i < 20; ++i) {
        ASSERT_TRUE(loop_.run(mallory_.connect(federation_.port())));
        protocol::ClientMessage bomb;
        auto& hello = *bomb.mutable_hello();
        for (int element = 0; element < 400'000; ++element) hello.add_base_models();
        EXPECT_LE(bomb.ByteSizeLong(), 1u << 20);
        says(bomb);
        while (loop_.run(mallory_.next())) {
        }
    }
    expect_counted("too_large", 20);
    if (kMemoryIsItsOwn) {
        EXPECT_LE(resident_bytes(federation_) - before, 16.0 * (1 << 20));
    }
}

}  // namespace
}  // namespace fedllm::test
