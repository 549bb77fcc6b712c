// kill -9 of the server at every message of a federation: it goes on by itself, counts no update twice, and
// ends with the bits of the undisturbed run.
#include "tests/integration/crowd.hpp"

namespace fedllm::test {
namespace {

// "update accepted" lines; the log outlives the server.
int accepted(const Federation& federation) {
    const std::string log = federation.log();
    int count = 0;
    for (std::size_t at = 0; (at = log.find("update accepted", at)) != std::string::npos; ++at) ++count;
    return count;
}

struct Outcome {
    std::string digest;
    int messages = 0;
    int accepted = 0;
};

Outcome federate(const std::string& download_codec, int kill_before) {
    Federation federation;
    federation.start();
    TinyJob{.clients = 2, .minimum = 2, .rounds = 2, .download_codec = download_codec}.submit(federation);
    Crowd crowd(federation, {"ash", "birch"}, [&](int message) {
        if (message != kill_before) return;
        federation.kill();
        federation.start();
    });
    Outcome outcome;
    outcome.digest = crowd.run();
    outcome.messages = crowd.messages();
    outcome.accepted = accepted(federation);
    EXPECT_EQ(federation.terminate(), 0);
    return outcome;
}

// With whole versions, and with steps, whose residual must survive as well.
class CrashAnywhere : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Downloads, CrashAnywhere, testing::Values("none", "deadzone"),
                         [](const auto& codec) { return std::string(codec.param); });

TEST_P(CrashAnywhere, AtAnyMessageChangesNothing) {
    const Outcome undisturbed = federate(GetParam(), 0);
    ASSERT_EQ(undisturbed.accepted, 4);
    // Two rounds of two clients: task, Proceed, the second half, verdict; then a task to evaluate. The
    // verdict about the evaluation may come after the job is seen to be finished.
    ASSERT_GE(undisturbed.messages, 2 * 2 * 4 + 2);
    for (int moment = 1; moment <= undisturbed.messages; ++moment) {
        SCOPED_TRACE("kill -9 before message " + std::to_string(moment));
        const Outcome crashed = federate(GetParam(), moment);
        EXPECT_EQ(crashed.digest, undisturbed.digest);
        // One line for each update; a kill between the ledger's commit and the line loses the line alone.
        EXPECT_LE(crashed.accepted, 4);
        if (HasFailure()) break;
    }
}

TEST(Crash, TerminatedInTheMiddleOfARoundGoesOn) {
    Federation federation;
    federation.start();
    TinyJob{.clients = 2, .minimum = 2, .rounds = 2}.submit(federation);
    Crowd crowd(federation, {"ash", "birch"}, [&](int message) {
        if (message != 5) return;
        EXPECT_EQ(federation.terminate(), 0);
        federation.start();
    });
    crowd.run();
    EXPECT_EQ(accepted(federation), 4);
}

}  // namespace
}  // namespace fedllm::test
