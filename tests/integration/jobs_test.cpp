// Several jobs at once, which share their clients.
#include "tests/integration/crowd.hpp"

namespace fedllm::test {
namespace {

std::string finished_digest(const Federation& federation, const std::string& job) {
    const auto link = federation.operator_link();
    if (!link) return "";
    const auto report = (*link)->show_job(JobId(job));
    if (!report || report->summary().state() != "finished") return "";
    return report->summary().model_digest();
}

// The longest run of tasks of one job, in the order in which they were given.
std::size_t longest_run(const std::vector<std::string>& tasks) {
    std::size_t longest = 0, run = 0;
    for (std::size_t i = 0; i < tasks.size(); ++i) {
        const bool same = i > 0 && tasks[i].substr(0, 3) == tasks[i - 1].substr(0, 3);
        run = same ? run + 1 : 1;
        longest = std::max(longest, run);
    }
    return longest;
}

// Clients keep no rules of their own here: a second task while one is at work would be refused by the
// protocol's session, which the crowd would see as a cut.
TEST(Jobs, TwoShareTheirClientsAndBothFinish) {
    Federation federation;
    federation.start();
    const TinyJob job{.clients = 2, .minimum = 2, .rounds = 4};
    job.submit(federation);
    job.submit(federation);
    Crowd crowd(federation, {"ash", "birch"}, [](int) {});
    const std::string second = crowd.run("j2");
    const std::string first = finished_digest(federation, "j1");
    EXPECT_NE(first, "") << "the first job waits for the second one's end";
    EXPECT_NE(first, second) << "updates depend on the job, and so should its model";
    EXPECT_EQ(crowd.tasks().size(), 2u * 2u * 4u);
    EXPECT_LE(longest_run(crowd.tasks()), 4u) << "one job ran on its own";
    EXPECT_EQ(federation.terminate(), 0);
}

TEST(Jobs, BothGoOnAfterTheServerWasKilled) {
    const TinyJob job{.clients = 2, .minimum = 2, .rounds = 3};
    std::vector<std::string> digests;
    for (const int kill_before : {0, 9}) {
        Federation federation;
        federation.start();
        job.submit(federation);
        job.submit(federation);
        Crowd crowd(federation, {"ash", "birch"}, [&](int message) {
            if (message != kill_before) return;
            federation.kill();
            federation.start();
        });
        const std::string second = crowd.run("j2");
        digests.push_back(finished_digest(federation, "j1") + second);
    }
    EXPECT_EQ(digests[0], digests[1]);
}

}  // namespace
}  // namespace fedllm::test
