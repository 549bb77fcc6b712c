// What goes over the daemon's connections: versions whole and as steps, updates, each at the byte and no
// faster than allowed.
#include "common/base/clock.hpp"
#include "tests/client/agent/agent_world.hpp"

namespace fedllm::client::agent {
namespace {

// A quarter of a second's bytes are saved up and go at once.
TEST_F(AgentTest, SendsAndReceivesNoFasterThanItsPolicySays) {
    double fetching = 0, uploading = 0;
    std::uint64_t update_bytes = 0;
    const auto script = [&](World& world) -> awaitable<void> {
        auto peer = co_await world.accept();
        const double asked = monotonic_seconds();
        const auto offer = co_await to_offer(*peer);
        const double offered = monotonic_seconds();
        co_await peer->proceed(offer, 0);
        (void)co_await peer->receive(0, offer.bytes());
        fetching = offered - asked;
        uploading = monotonic_seconds() - offered;
        update_bytes = offer.bytes();
        co_await peer->verdict(offer.task_id());
    };
    config_.policy.download_rate_max = {version_.size()};
    EXPECT_EQ(run(script), "") << log_;
    EXPECT_GE(fetching, 0.7);
    config_.state_directory = site_.folder() / "other-state";
    config_.policy.download_rate_max = {};
    config_.policy.upload_rate_max = {update_bytes};
    EXPECT_EQ(run(script), "") << log_;
    EXPECT_GE(uploading, 0.7);
}

TEST_F(AgentTest, TheDownloadGoesOnAtTheByte) {
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  const std::uint64_t half = 700;
                  auto peer = co_await world.accept();
                  co_await peer->task(job_, version_);
                  EXPECT_EQ(co_await peer->fetch(), 0u);
                  co_await peer->chunks(version_, 0, half);
                  co_await peer->task(job_, version_);  // out of order: makes the client cut after the chunks
                  co_await peer->until_closed();
                  peer = co_await world.accept();
                  co_await peer->task(job_, version_);
                  EXPECT_EQ(co_await peer->fetch(), half);
                  co_await peer->chunks(version_, half, version_.size());
                  const auto offer = co_await peer->offer();
                  EXPECT_EQ(offer.task_id(), "j1/0/site-a");
              }),
              "")
        << log_;
}

TEST_F(AgentTest, TheUploadGoesOnAtTheByteAndNothingIsTrainedTwice) {
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  auto peer = co_await world.accept();
                  const auto offer = co_await to_offer(*peer);
                  co_await peer->proceed(offer, 0);
                  std::string bytes = co_await peer->receive(0, 200);
                  peer->cut();
                  peer = co_await world.accept();
                  co_await peer->task(job_, version_);
                  const auto again = co_await peer->offer();
                  EXPECT_EQ(again.digest(), offer.digest());
                  EXPECT_EQ(again.train_seconds(), offer.train_seconds());
                  EXPECT_EQ(peer->progress(), 0);
                  co_await peer->proceed(again, bytes.size());
                  bytes += co_await peer->receive(bytes.size(), offer.bytes() - bytes.size());
                  EXPECT_EQ(crypto::to_hex(crypto::sha256(bytes)), offer.digest());
                  co_await peer->verdict(offer.task_id());
              }),
              "")
        << log_;
}

TEST_F(AgentTest, ADamagedDownloadIsFetchedOnceMore) {
    std::string damaged = version_;
    damaged.back() ^= 1;
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  auto peer = co_await world.accept();
                  co_await peer->task(job_, version_);
                  EXPECT_EQ(co_await peer->fetch(), 0u);
                  co_await peer->chunks(damaged, 0, damaged.size());
                  EXPECT_EQ(co_await peer->fetch(), 0u);
                  co_await peer->chunks(damaged, 0, damaged.size());
                  const auto message = co_await peer->next();
                  EXPECT_EQ(message.decline().reason(), "digest_mismatch") << message.ShortDebugString();
              }),
              "")
        << log_;
}

// Versions with the steps between them, encoded as the job's download.codec says: `none` is a codec too.
class StepsTest : public AgentTest {
protected:
    StepsTest() {
        auto params = model::initial_lora(*model::lora_manifest(tiny_config(), job_.lora), job_.seed);
        versions_.push_back(site_.bytes_of(params));
        for (int i = 0; i < 2; ++i) {
            std::vector<float> step(params.values().size(), 0.001f * static_cast<float>(i + 1));
            for (std::size_t k = 0; k < step.size(); ++k) params.values()[k] += step[k] += 1e-5f * k;
            encoded_.push_back(
                *codec::encode(job_.download.codec, codec::layout_of(params.manifest()), step, 0));
            versions_.push_back(site_.bytes_of(params));
        }
    }
    static std::string digest(const auto& bytes) {
        return crypto::to_hex(crypto::sha256(std::as_bytes(std::span(bytes))));
    }
    // Round `round` starts from that version; the steps to it from version `first` on are listed.
    awaitable<void> ask(Peer& peer, std::uint32_t round, std::uint32_t first,
                        protocol::TaskKind kind = protocol::TASK_KIND_TRAIN) const {
        protocol::ServerMessage message;
        auto& task = *message.mutable_task();
        task.set_task_id("j1/" + std::to_string(round) + "/site-a");
        task.set_kind(kind);
        task.set_job_id("j1");
        task.set_job(job::print_job(job_));
        task.set_round(round);
        task.set_model_digest(digest(versions_[round]));
        task.set_model_bytes(announced_ > 0 ? announced_ : versions_[round].size());
        for (std::uint32_t i = first; i < round; ++i) {
            auto& step = *task.add_steps();
            step.set_base_digest(digest(versions_[i]));
            step.set_digest(digest(versions_[i + 1]));
            step.set_encoded_digest(digest(encoded_[i]));
            step.set_encoded_bytes(encoded_[i].size());
        }
        co_await peer.say(message);
    }
    std::string text(std::size_t step) const {
        return {reinterpret_cast<const char*>(encoded_[step].data()), encoded_[step].size()};
    }
    // Through round 0, which costs no download.
    awaitable<void> first_round(Peer& peer) {
        co_await peer.task(job_, versions_[0]);
        const auto offer = co_await peer.offer();
        co_await peer.verdict(offer.task_id());
    }
    std::string held(std::size_t version) const {
        const auto file =
            read_file(config_.state_directory / "versions" / (digest(versions_[version]) + ".safetensors"));
        return file ? *file : "";
    }

    std::vector<std::string> versions_;
    std::vector<std::vector<std::byte>> encoded_;
    std::uint64_t announced_ = 0;  // as the version's size, if not what it is
};

TEST_F(StepsTest, RoundZeroComesFromTheSeedAndTheNextByASingleStep) {
    config_.versions_kept = 1;
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  auto peer = co_await world.accept();
                  co_await first_round(*peer);
                  co_await ask(*peer, 1, 0);
                  EXPECT_EQ(co_await peer->fetch(digest(encoded_[0])), 0u);
                  co_await peer->chunks(text(0), 0, encoded_[0].size());
                  const auto offer = co_await peer->offer();
                  co_await peer->verdict(offer.task_id());
                  // A client without the middle would need both; this one has it.
                  co_await ask(*peer, 2, 1, protocol::TASK_KIND_EVALUATE);
                  EXPECT_EQ(co_await peer->fetch(digest(encoded_[1])), 0u);
                  co_await peer->chunks(text(1), 0, encoded_[1].size());
                  EXPECT_TRUE((co_await peer->next()).has_evaluation());
              }),
              "")
        << log_;
    EXPECT_EQ(held(2), versions_[2]);
    EXPECT_EQ(held(1), versions_[1]) << "the base stays";
    EXPECT_EQ(held(0), "");
}

// Both steps together are more than a version here, where they are raw: so a longer version is announced.
TEST_F(StepsTest, ALateClientMakesTheBaseFromTheSeedAndResumesAStepAtTheByte) {
    announced_ = versions_[2].size() * 3;
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  auto peer = co_await world.accept();
                  co_await ask(*peer, 2, 0);
                  EXPECT_EQ(co_await peer->fetch(digest(encoded_[0])), 0u);
                  co_await peer->chunks(text(0), 0, encoded_[0].size());
                  EXPECT_EQ(co_await peer->fetch(digest(encoded_[1])), 0u);
                  co_await peer->chunks(text(1), 0, 100);
                  co_await peer->task(job_, version_);  // out of order: makes the client cut after the chunks
                  co_await peer->until_closed();
                  peer = co_await world.accept();
                  co_await ask(*peer, 2, 0);
                  EXPECT_EQ(co_await peer->fetch(digest(encoded_[1])), 100u);
                  co_await peer->chunks(text(1), 100, encoded_[1].size());
                  EXPECT_EQ((co_await peer->offer()).task_id(), "j1/2/site-a");
              }),
              "")
        << log_;
    EXPECT_EQ(held(2), versions_[2]);
}

TEST_F(StepsTest, ADamagedStepIsFollowedByTheWholeVersion) {
    std::string damaged = text(0);
    damaged[5] ^= 1;
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  auto peer = co_await world.accept();
                  co_await first_round(*peer);
                  co_await ask(*peer, 1, 0);
                  EXPECT_EQ(co_await peer->fetch(digest(encoded_[0])), 0u);
                  co_await peer->chunks(damaged, 0, damaged.size());
                  EXPECT_EQ(co_await peer->fetch(digest(versions_[1])), 0u);
                  co_await peer->chunks(versions_[1], 0, versions_[1].size());
                  EXPECT_EQ((co_await peer->offer()).task_id(), "j1/1/site-a");
              }),
              "")
        << log_;
}

TEST_F(StepsTest, WhoHoldsNoBaseFetchesTheWholeVersion) {
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  auto peer = co_await world.accept();
                  co_await ask(*peer, 2, 1);
                  EXPECT_EQ(co_await peer->fetch(digest(versions_[2])), 0u);
                  co_await peer->chunks(versions_[2], 0, versions_[2].size());
                  EXPECT_EQ((co_await peer->offer()).task_id(), "j1/2/site-a");
              }),
              "")
        << log_;
}

}  // namespace
}  // namespace fedllm::client::agent
