// kill -9 of the server at every message of a federation: it goes on by itself, counts no update twice, and
// ends with the bits of the undisturbed run.
#include <set>

#include "common/net/task_group.hpp"
#include "tests/integration/federation.hpp"

namespace fedllm::test {
namespace {

using namespace std::chrono_literals;

// Truthful clients on one thread. They answer what they are asked and come back after a cut, until the job is
// finished. `before_message(n)` runs before the n-th message that reaches any of them is handled.
class Crowd {
public:
    Crowd(Federation& federation, std::vector<std::string> names, std::function<void(int)> before_message)
        : federation_(federation), names_(std::move(names)), before_message_(std::move(before_message)) {
        for (const auto& name : names_) peers_.push_back(std::make_unique<Peer>(federation_.invite(name)));
    }

    // The digest of the final model.
    std::string run() {
        for (const auto& peer : peers_) tasks_.spawn("client", serve(*peer));
        tasks_.spawn("watch", watch());
        // Not run(): it would also wait for the timers of watchdogs that have nothing to watch any more.
        const auto deadline = std::chrono::steady_clock::now() + 60s;
        while (tasks_.size() > 0 && std::chrono::steady_clock::now() < deadline) io_.run_one_for(100ms);
        EXPECT_FALSE(digest_.empty()) << "the job did not finish";
        return digest_;
    }
    int messages() const { return messages_; }

private:
    awaitable<Result<void>> serve(Peer& peer) {
        while (digest_.empty()) {
            // Named results: GCC 12 destroys a temporary across co_await twice.
            const Result<void> connected = co_await peer.connect(federation_.port());
            if (connected) {
                const Result<void> cut = co_await answer(peer);
                EXPECT_FALSE(cut);
            }
            const Result<void> slept = co_await net::sleep_for(10ms);
            if (!slept) break;
        }
        co_return Result<void>{};
    }

    awaitable<Result<void>> answer(Peer& peer) {
        for (;;) {
            FEDLLM_CO_TRY(const auto message, co_await peer.next());
            before_message_(++messages_);
            if (message.has_task()) {
                FEDLLM_CO_TRY_VOID(co_await on_task(peer, message.task()));
            } else if (message.has_proceed()) {
                FEDLLM_CO_TRY_VOID(co_await on_proceed(peer, message.proceed()));
            } else if (message.has_verdict()) {
                EXPECT_NE(message.verdict().outcome(), protocol::OUTCOME_REFUSED)
                    << message.ShortDebugString();
                settled_.insert(message.verdict().task_id());
            }
        }
    }

    awaitable<Result<void>> on_task(Peer& peer, const protocol::Task& task) {
        const std::string& id = task.task_id();
        const protocol::Offer offer = truthful_offer(id, encoded(honest_values(id)));
        if (task.kind() == protocol::TASK_KIND_TRAIN) {
            EXPECT_FALSE(settled_.contains(id)) << id << " is asked for again after its verdict";
            co_return co_await peer.send(offer);
        }
        protocol::ClientMessage message;
        *message.mutable_evaluation() = offer.evaluation();
        co_return co_await peer.send(std::move(message));
    }

    // In two pieces, so that a cut can fall between them.
    awaitable<Result<void>> on_proceed(Peer& peer, const protocol::Proceed& proceed) {
        EXPECT_FALSE(settled_.contains(proceed.task_id())) << proceed.task_id() << " is uploaded again";
        const auto update = encoded(honest_values(proceed.task_id()));
        const std::span<const std::byte> bytes(update);
        const std::size_t middle = bytes.size() / 2;
        if (proceed.offset() == 0) {
            FEDLLM_CO_TRY_VOID(co_await peer.send_bytes(0, bytes.first(middle)));
            before_message_(++messages_);
            co_return co_await peer.send_bytes(middle, bytes.subspan(middle));
        }
        if (proceed.offset() == bytes.size()) co_return Result<void>{};
        co_return co_await peer.send_bytes(proceed.offset(), bytes.subspan(proceed.offset()));
    }

    awaitable<Result<void>> watch() {
        while (digest_.empty()) {
            const Result<void> slept = co_await net::sleep_for(20ms);
            if (!slept) break;
            const auto link = federation_.operator_link();
            if (!link) continue;
            const auto report = (*link)->show_job(JobId("j1"));
            if (report && report->summary().state() == "finished") digest_ = report->summary().model_digest();
        }
        for (const auto& peer : peers_) peer->close();
        co_return Result<void>{};
    }

    Federation& federation_;
    std::vector<std::string> names_;
    std::function<void(int)> before_message_;
    asio::io_context io_{1};
    net::TaskGroup tasks_{io_.get_executor()};
    std::vector<std::unique_ptr<Peer>> peers_;
    std::set<std::string> settled_;
    std::string digest_;
    int messages_ = 0;
};

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
