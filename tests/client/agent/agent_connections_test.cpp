// What outlives the daemon's connection, and when it comes back.
#include "tests/client/agent/agent_world.hpp"

namespace fedllm::client::agent {
namespace {

TEST_F(AgentTest, ARestartedClientOffersWhatItHadTrained) {
    std::string digest;
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  auto peer = co_await world.accept();
                  digest = (co_await to_offer(*peer)).digest();
              }),
              "")
        << log_;
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  auto peer = co_await world.accept();
                  co_await peer->task(job_, version_);
                  const auto offer = co_await peer->offer();
                  EXPECT_EQ(offer.digest(), digest);
                  EXPECT_EQ(peer->progress(), 0);
                  co_await peer->verdict(offer.task_id(), protocol::OUTCOME_ALREADY_ACCEPTED);
                  co_await peer->task(job_, version_, 1);  // the next round goes on as ever
                  EXPECT_EQ((co_await peer->offer()).task_id(), "j1/1/site-a");
              }),
              "")
        << log_;
}

TEST_F(AgentTest, TrainingOutlivesTheConnection) {
    job_.train.local_steps = 2000;  // long enough to be seen at work
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  auto peer = co_await world.accept();
                  co_await peer->task(job_, version_);
                  co_await peer->send_version(version_);
                  while (!world.agent().worker_busy()) co_await net::sleep_for(std::chrono::milliseconds(1));
                  peer->cut();
                  peer = co_await world.accept();
                  while (world.agent().worker_busy()) co_await net::sleep_for(std::chrono::milliseconds(1));
                  co_await peer->task(job_, version_);
                  EXPECT_EQ((co_await peer->offer()).task_id(), "j1/0/site-a");
              }),
              "")
        << log_;
    EXPECT_NE(log_.find("is still wanted"), std::string::npos) << log_;
}

TEST_F(AgentTest, AServerThatBreaksTheProtocolIsLeft) {
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  auto peer = co_await world.accept();
                  co_await peer->chunks("nobody asked for this", 0, 21);
                  co_await peer->until_closed();
                  peer = co_await world.accept();
                  EXPECT_EQ(peer->hello().base_models_size(), 1);
              }),
              "")
        << log_;
    EXPECT_NE(log_.find("out_of_order"), std::string::npos) << log_;
}

// Cut again and again, the agent comes back after waits that grow; with a mebibyte carried each time they do
// not.
class BackoffTest : public AgentTest {
protected:
    static constexpr int kCuts = 9;
    BackoffTest() { backoff_ = {.first = std::chrono::milliseconds(2), .longest = std::chrono::seconds(1)}; }

    // The longest wait of several, in milliseconds, when each connection brings so many bytes of a version.
    int longest_wait(std::uint64_t bytes) {
        const std::string large(kCuts * bytes + 100, 'v');
        EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                      for (int cut = 0; cut < kCuts; ++cut) {
                          auto peer = co_await world.accept();
                          co_await peer->task(job_, large);
                          const std::uint64_t held = co_await peer->fetch();
                          co_await peer->chunks(large, held, std::min(held + bytes, large.size() - 1));
                          peer->cut();
                      }
                      auto last = co_await world.accept();
                  }),
                  "")
            << log_;
        int longest = 0, waits = 0;
        const std::string before = "retry_in_ms=";
        for (auto at = log_.find(before); at != std::string::npos; at = log_.find(before, at + 1), ++waits) {
            longest = std::max(longest, std::stoi(log_.substr(at + before.size())));
        }
        EXPECT_EQ(waits, kCuts) << log_;
        return longest;
    }
};

TEST_F(BackoffTest, GrowsWhileConnectionsBringNothing) { EXPECT_GT(longest_wait(600), 2); }

TEST_F(BackoffTest, BeginsAnewAfterAMebibyte) { EXPECT_LE(longest_wait((1 << 20) + 64 * 1024), 2); }

}  // namespace
}  // namespace fedllm::client::agent
