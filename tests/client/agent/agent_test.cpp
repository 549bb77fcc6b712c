// Tasks as the daemon takes them: trained, evaluated, declined, stopped; and what its operator sees.
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <limits>

#include "common/base/clock.hpp"
#include "tests/client/agent/agent_world.hpp"

namespace fedllm::client::agent {
namespace {

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
