// The daemon whole, with a real (tiny) model, against a scripted server over memory streams.
#include <gtest/gtest.h>

#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <limits>

#include "common/base/clock.hpp"
#include "common/log/log.hpp"
#include "tests/client/agent/fake_server.hpp"
#include "tests/client/agent/site.hpp"

namespace fedllm::client::agent {
namespace {

class AgentTest : public testing::Test {
protected:
    AgentTest() {
        log::setup({.format = log::Format::Human,
                    .level = log::Level::Debug,
                    .sink = [this](std::string_view line) { log_ += std::string(line) + "\n"; }});
    }
    ~AgentTest() override { log::setup({}); }

    // Greets and follows one training task up to its Offer.
    awaitable<protocol::Offer> to_offer(Peer& peer, std::uint32_t round = 0) {
        co_await peer.task(job_, version_, round);
        co_await peer.send_version(version_);
        co_return co_await peer.offer();
    }
    std::string run(World::Script script) { return World().run(config_, std::move(script)); }

    // Coroutine lambdas below capture `this`, which outlives the world they run in.
    Site site_;
    ClientConfig config_ = site_.config();
    job::JobSpec job_ = site_.job();
    // The version that tasks start from. Another seed than the job's made it: it has to be fetched.
    std::string version_ = site_.version([this] {
        job::JobSpec other = job_;
        other.seed += 1;
        return other;
    }());
    std::string log_;
};

// What the admin page answers to GET `target`; the log says where it is.
awaitable<std::string> admin_page(const std::string& log, std::string target) {
    const std::string before = "http://127.0.0.1:";
    const auto at = log.find(before);
    EXPECT_NE(at, std::string::npos) << log;
    const auto port = static_cast<std::uint16_t>(std::stoi(log.substr(at + before.size(), 5)));
    net::asio::ip::tcp::socket socket(co_await net::asio::this_coro::executor);
    co_await socket.async_connect({net::asio::ip::make_address("127.0.0.1"), port}, net::kNoThrow);
    const std::string request = "GET " + target + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    std::string heard;
    co_await net::asio::async_write(socket, net::asio::buffer(request), net::kNoThrow);
    co_await net::asio::async_read(socket, net::asio::dynamic_buffer(heard), net::kNoThrow);
    co_return heard;
}

TEST_F(AgentTest, ShowsItsOperatorWhatItDoes) {
    config_.admin = {.address = "127.0.0.1", .port = 0};
    const auto script = [&](World& world) -> awaitable<void> {
        const std::string alone = co_await admin_page(log_, "/readyz");
        EXPECT_TRUE(alone.ends_with("no connection to the server\n")) << alone;
        auto peer = co_await world.accept();
        const auto offer = co_await to_offer(*peer);
        const std::string ready = co_await admin_page(log_, "/readyz");
        EXPECT_TRUE(ready.ends_with("ready\n")) << ready;
        const std::string page = co_await admin_page(log_, "/metrics");
        for (const char* line :
             {"fedllm_client_connected 1\n", "fedllm_client_train_loss 5.",
              "fedllm_client_tasks_total{outcome=\"trained\"} 1\n", "fedllm_client_resident_memory_bytes "}) {
            EXPECT_NE(page.find(line), std::string::npos) << line << " in " << page;
        }
        co_await peer->proceed(offer, 0);
        co_await peer->receive(0, offer.bytes());
        co_await peer->verdict(offer.task_id());
    };
    EXPECT_EQ(run(script), "") << log_;
}

TEST_F(AgentTest, TakesPartInARound) {
    std::string digest;
    const auto script = [&](World& world) -> awaitable<void> {
        auto peer = co_await world.accept();
        EXPECT_EQ(peer->hello().base_models(0), "tiny");
        EXPECT_EQ(peer->hello().protocol_version(), protocol::kProtocolVersion);
        EXPECT_EQ(peer->hello().codecs(0), "none");
        const auto offer = co_await to_offer(*peer);
        EXPECT_EQ(offer.task_id(), "j1/0/site-a");
        EXPECT_GE(peer->progress(), 1);
        EXPECT_GT(offer.samples(), 20u);
        EXPECT_LT(offer.samples(), 40u) << "some are held out";
        EXPECT_GT(offer.evaluation().tokens(), 0u);
        EXPECT_NEAR(offer.evaluation().loss_sum() / static_cast<double>(offer.evaluation().tokens()), 5.5,
                    1.0)
            << "a random model knows nothing: ln 256";
        EXPECT_GT(offer.update_norm(), 0);
        co_await peer->proceed(offer, 0);
        const std::string bytes = co_await peer->receive(0, offer.bytes());
        EXPECT_EQ(crypto::to_hex(crypto::sha256(bytes)), offer.digest());
        co_await peer->verdict(offer.task_id());
        digest = offer.digest();

        co_await peer->task(job_, version_, 3, protocol::TASK_KIND_EVALUATE);
        const auto message = co_await peer->next();  // no Fetch: the version is held
        EXPECT_EQ(message.evaluation().task_id(), "j1/3/site-a");
        EXPECT_EQ(message.evaluation().loss_sum(), offer.evaluation().loss_sum());
        co_await peer->verdict("j1/3/site-a");
    };
    EXPECT_EQ(run(script), "") << log_;
    EXPECT_NE(log_.find("round 1 of 3 of job 'test'"), std::string::npos) << log_;
    EXPECT_NE(log_.find("accepted by the server"), std::string::npos) << log_;
    for (const auto& entry : std::filesystem::directory_iterator(config_.state_directory / "updates")) {
        EXPECT_TRUE(entry.is_directory()) << entry.path() << " stays after the verdict";
    }

    const std::string first = digest;
    config_.state_directory = site_.folder() / "other-state";
    config_.threads = 2;
    EXPECT_EQ(run(script), "") << log_;
    EXPECT_EQ(digest, first) << "the same task gives the same bytes, whatever the threads";
}

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

TEST_F(AgentTest, DeclinesWhatItCannotOrWillNotDoAndStaysConnected) {
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  auto peer = co_await world.accept();
                  const auto declined = [&](std::string reason, std::string part) -> awaitable<void> {
                      const auto message = co_await peer->next();
                      EXPECT_EQ(message.decline().reason(), reason) << message.ShortDebugString();
                      EXPECT_NE(message.decline().detail().find(part), std::string::npos)
                          << message.ShortDebugString();
                  };
                  job::JobSpec job = job_;
                  job.lora.rank = 1000;
                  co_await peer->task(job, version_);
                  co_await declined("policy_refused", "lora.rank is 1000");

                  job = job_;
                  job.base_fingerprint = std::string(64, '0');
                  co_await peer->task(job, version_, 1);
                  co_await peer->send_version(version_);
                  co_await declined("policy_refused", "base_fingerprint");

                  job = job_;
                  job.lora.rank = 3;
                  co_await peer->task(job, version_, 2);
                  co_await declined("manifest_mismatch", "does not fit the job");

                  const std::string garbage(1000, '\0');
                  co_await peer->task(job_, garbage, 3);
                  co_await peer->send_version(garbage);
                  co_await declined("invalid_file", "see this client's log");

                  job = job_;
                  job.train.sequence_length = 1000;
                  co_await peer->task(job, version_, 4);
                  co_await declined("invalid_config", "exceeds the model's context");

                  co_await peer->task(job_, version_, 5);
                  EXPECT_EQ((co_await peer->offer()).task_id(), "j1/5/site-a");
              }),
              "")
        << log_;
}

TEST_F(AgentTest, DeclinesWhenTrainingOrTheVersionIsNotFinite) {
    const auto manifest = model::lora_manifest(tiny_config(), job_.lora);
    auto params = model::initial_lora(*manifest, 1);
    params.values()[0] = std::numeric_limits<float>::quiet_NaN();
    const std::string poisoned = site_.bytes_of(params);
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  auto peer = co_await world.accept();
                  co_await peer->task(job_, poisoned);
                  co_await peer->send_version(poisoned);
                  auto message = co_await peer->next();
                  EXPECT_EQ(message.decline().reason(), "not_finite") << message.ShortDebugString();

                  job::JobSpec job = job_;
                  job.train.optimizer.learning_rate = 10;
                  job.train.optimizer.weight_decay = 1;  // 1 - 10 per step: values explode
                  job.train.local_steps = 60;
                  co_await peer->task(job, version_, 1);
                  co_await peer->send_version(version_);
                  message = co_await peer->next();
                  EXPECT_EQ(message.decline().reason(), "not_finite") << message.ShortDebugString();
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

TEST_F(AgentTest, AReleaseStopsTheTrainingForTheNextTask) {
    job::JobSpec endless = job_;
    endless.train.local_steps = 90'000;
    EXPECT_EQ(run([&](World& world) -> awaitable<void> {
                  auto peer = co_await world.accept();
                  co_await peer->task(endless, version_);
                  co_await peer->send_version(version_);
                  while (!world.agent().worker_busy()) co_await net::sleep_for(std::chrono::milliseconds(1));
                  co_await peer->release("j1/0/site-a");
                  co_await peer->task(job_, version_, 1);
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

TEST_F(AgentTest, StopsWithinSecondsInTheMiddleOfTraining) {
    job_.train.local_steps = 90'000;
    double asked = 0;
    World world;
    EXPECT_EQ(world.run(config_,
                        [&](World& w) -> awaitable<void> {
                            auto peer = co_await w.accept();
                            co_await peer->task(job_, version_);
                            co_await peer->send_version(version_);
                            while (!w.agent().worker_busy())
                                co_await net::sleep_for(std::chrono::milliseconds(1));
                            asked = monotonic_seconds();
                            w.agent().stop();
                            EXPECT_NE((co_await peer->until_closed()).find("goodbye"), std::string::npos);
                        }),
              "")
        << log_;
    EXPECT_LT(monotonic_seconds() - asked, 30);
    EXPECT_FALSE(world.worker_left_busy());
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

TEST_F(AgentTest, AModelFolderThatIsBrokenIsAnErrorAtStart) {
    config_.models["other"] = site_.folder() / "nowhere";
    const std::string failure = run([](World&) -> awaitable<void> { co_return; });
    EXPECT_NE(failure.find("models.other"), std::string::npos) << failure;
    config_ = site_.config();
    config_.data.path = "/no/such/file.jsonl";
    EXPECT_NE(run([](World&) -> awaitable<void> { co_return; }).find("not_found: data: /no/such/file.jsonl"),
              std::string::npos);
}

}  // namespace
}  // namespace fedllm::client::agent
