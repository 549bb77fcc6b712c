// A client daemon and a server daemon with a line between them that fails: the job finishes, and hardly a
// byte travels twice. With FEDLLM_LONG=1 also what needs the real deadlines of minutes.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "tests/integration/fault_proxy.hpp"
#include "tests/integration/federation.hpp"

namespace fedllm::test {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

// A program of ours; killed with the object.
class Process {
public:
    Process(std::vector<std::string> words, const Path& log) {
        posix_spawn_file_actions_t files;
        posix_spawn_file_actions_init(&files);
        posix_spawn_file_actions_addopen(&files, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
        posix_spawn_file_actions_adddup2(&files, 1, 2);
        std::vector<char*> arguments;
        for (auto& word : words) arguments.push_back(word.data());
        arguments.push_back(nullptr);
        EXPECT_EQ(posix_spawn(&id_, arguments[0], &files, nullptr, arguments.data(), environ), 0) << words[0];
        posix_spawn_file_actions_destroy(&files);
    }
    ~Process() {
        if (id_ < 0) return;
        ::kill(id_, SIGKILL);
        (void)wait();
    }
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    void terminate() {
        ::kill(id_, SIGTERM);
        EXPECT_EQ(wait(), 0);
    }
    int wait() {
        int status = 0;
        waitpid(id_, &status, 0);
        id_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }

private:
    pid_t id_ = -1;
};

constexpr std::string_view kCanary = "kingfisher";  // in the site's texts, and in no log

bool long_tests() { return std::getenv("FEDLLM_LONG") != nullptr; }

// One site on the other side of the proxy; one round over the demo's base model.
class OnALine {
public:
    OnALine(int rank, const LineFaults& faults,
            const std::function<void(server::app::ServerConfig&)>& change = {})
        : rank_(rank) {
        if (change) federation_.configure(change);
        federation_.start();
        proxy_ = std::make_unique<FaultProxy>(federation_.port(), faults);
        site_ = federation_.invite("ash").certificate.parent_path();
        std::string rows;
        for (int i = 0; i < 12; ++i) {
            rows += "{\"text\": \"the " + std::string(kCanary) + " of the old tree in wood number " +
                    std::to_string(i) + "\"}\n";
        }
        EXPECT_TRUE(write_file_atomically(site_ / "data.jsonl", rows));
        const std::string base = fs::absolute("deploy/demo/base");
        EXPECT_TRUE(write_file_atomically(
            site_ / "client.yaml",
            "server: {host: 127.0.0.1, port: " + std::to_string(proxy_->port()) + "}\nmodels: {demo-base: " +
                base + "}\ndata: {path: data.jsonl, eval_fraction: 0.2}\ndevice: cpu\nthreads: 1\n" +
                "policy: {lora_rank_max: 1024}\nlog: {level: debug}\n"));
        EXPECT_TRUE(write_file_atomically(federation_.folder() / "job.yaml", job()));
        client_ = std::make_unique<Process>(
            std::vector<std::string>{FEDLLM_CLIENT_PROGRAM, "--config", site_ / "client.yaml"},
            site_ / "log");
        Process submit({FEDLLM_TOOL_PROGRAM, "job", "submit", federation_.folder() / "job.yaml", "--model",
                        base, "--dir", federation_.folder()},
                       federation_.folder() / "submit.log");
        EXPECT_EQ(submit.wait(), 0) << read_file(federation_.folder() / "submit.log").value();
    }
    ~OnALine() {
        if (testing::Test::HasFailure()) std::fputs(read_file(site_ / "log").value().c_str(), stderr);
    }

    // Calls `meanwhile` now and then until the job is finished.
    void finish(
        Duration patience, const std::function<void()>& meanwhile = [] {}) {
        const auto deadline = std::chrono::steady_clock::now() + patience;
        std::string state;
        while (state != "finished" && std::chrono::steady_clock::now() < deadline) {
            meanwhile();
            std::this_thread::sleep_for(100ms);
            const auto link = federation_.operator_link();
            if (!link) continue;
            const auto report = (*link)->show_job(JobId("j1"));
            if (report) state = report->summary().state();
        }
        ASSERT_EQ(state, "finished");
        client_->terminate();  // its last connection is counted when it ends
        client_.reset();
        EXPECT_EQ(federation_.metric("fedllm_updates_total{job=\"j1\",outcome=\"accepted\",reason=\"\"}"), 1);
    }
    // What the line was given for each byte of the update, and of the version behind it, messages and TLS
    // included.
    void expect_little_sent_twice(double ratio_max = 1.1) {
        const double sent = static_cast<double>(proxy_->taken_from_clients());
        const double received = static_cast<double>(proxy_->taken_from_server());
        const double update =
            federation_.metric("fedllm_client_bytes_total{client=\"ash\",direction=\"up\"}");
        std::printf(
            "update %.0f bytes counted, %.0f on the line: %.3f; version %.0f: %.3f; %d connections, %d "
            "cuts\n",
            update, sent, sent / update_bytes(), received, received / update_bytes(), proxy_->connections(),
            proxy_->cuts());
        testing::Test::RecordProperty("sent_over_update", std::to_string(sent / update_bytes()));
        const double spoken = 16 * 1024.0 * proxy_->connections();
        EXPECT_LE(sent, ratio_max * update_bytes() + spoken);
        EXPECT_LE(received, ratio_max * update_bytes() + spoken);
        EXPECT_GE(received, update_bytes()) << "a job also finishes when nobody evaluates its last version";
    }
    // A f32 for each weight of A and B, of every projection of the demo's four layers.
    double update_bytes() const {
        const double columns = (192 + 192) * 2 + (192 + 64) * 2 + (192 + 512) * 3;
        return 4.0 * rank_ * 4 * columns;
    }

    // All that both daemons have logged.
    std::string logs() const { return federation_.log() + read_file(site_ / "log").value(); }
    const Path& site() const { return site_; }
    FaultProxy& line() { return *proxy_; }
    Federation& federation() { return federation_; }

private:
    std::string job() const {
        const std::string rank = std::to_string(rank_);
        return "name: faults\nbase_model: demo-base\nseed: 7\nlora: {rank: " + rank + ", alpha: " + rank +
               ", target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]}\nrounds: "
               "1\n"
               "clients_per_round: 1\nclients_minimum: 1\nsamples_max: 1000\nupdate: {codec: "
               "none}\ndownload: {codec: none}\n"
               "train: {local_steps: 1, batch_rows: 1, sequence_length: 16}\n";
    }

    int rank_;
    Federation federation_;
    std::unique_ptr<FaultProxy> proxy_;
    Path site_;
    std::unique_ptr<Process> client_;
};

TEST(Faults, ALineThatIsResetEveryTenMegabytes) {
    OnALine site(640, {.reset_every = 10'000'000});  // an update of 35 MB, and a version as large
    ASSERT_GT(site.update_bytes(), 30e6);
    site.finish(240s);
    EXPECT_GE(site.line().cuts(), 3);
    site.expect_little_sent_twice();
}

TEST(Faults, ASlowLineWithDelay) {
    OnALine site(8,
                 {.bytes_per_second = 125'000, .delay = 40ms, .jitter = 20ms});  // 1 Mbit/s, 430 KB each way
    site.finish(240s);
    EXPECT_EQ(site.line().connections(), 1) << "slow is not dead";
    site.expect_little_sent_twice();
}

// The server gives the connection up after a second of silence; when the line is back, the client goes on at
// the byte.
TEST(Faults, ABlackHoleLongerThanTheServersPatience) {
    OnALine site(128, {.bytes_per_second = 1'500'000},
                 [](server::app::ServerConfig& config) { config.limits.rate_window = 1s; });
    const std::string given_up = "the peer sent nothing, or too slowly";
    std::uint64_t holes = 0;  // one that begins between two frames is only a wait: then there is another
    site.finish(240s, [&] {
        if (holes == 3 || site.line().taken_from_clients() < 500'000 + holes * 1'000'000) return;
        if (site.federation().log().find(given_up) != std::string::npos) return;
        ++holes;
        site.line().black_hole(5s);
    });
    EXPECT_GE(holes, 1u);
    EXPECT_GE(site.line().connections(), 2);
    EXPECT_TRUE(site.federation().log_has(given_up));
    site.expect_little_sent_twice();
}

TEST(Faults, ABlackHoleShorterThanThePatienceIsOnlyAWait) {
    OnALine site(64, {.bytes_per_second = 1'000'000});
    bool dark = false;
    site.finish(240s, [&] {
        if (dark || site.line().taken_from_clients() < 500'000) return;
        dark = true;
        site.line().black_hole(4s);
    });
    EXPECT_TRUE(dark);
    EXPECT_EQ(site.line().connections(), 1);
}

// The server still believes in the old connection when the client is back under the same name.
TEST(Faults, AConnectionThatOnlyTheServerBelievesIn) {
    OnALine site(128, {.half_open_after = 3'000'000});
    site.finish(240s);
    EXPECT_EQ(site.line().cuts(), 1);
    EXPECT_EQ(site.line().connections(), 2);
    site.expect_little_sent_twice();
}

// At the most talkative level of both daemons.
TEST(Logs, TellNothingPrivate) {
    OnALine site(8, {}, [](server::app::ServerConfig& config) { config.log.level = log::Level::Debug; });
    site.finish(240s);
    const std::string logs = site.logs();
    EXPECT_NE(logs.find("DEBUG"), std::string::npos);
    EXPECT_EQ(logs.find(kCanary), std::string::npos) << "a training text";
    EXPECT_EQ(logs.find("PRIVATE KEY"), std::string::npos);
    for (const Path& key : {site.site() / "client.key", site.federation().folder() / "server.key"}) {
        const std::string pem = read_file(key).value();
        const auto line = pem.find('\n') + 1;
        EXPECT_EQ(logs.find(pem.substr(line, 32)), std::string::npos) << key;
    }
}

TEST(FaultsLong, AConnectionThatOnlyTheClientBelievesIn) {
    if (!long_tests()) GTEST_SKIP() << "takes the client's 30 s of patience: FEDLLM_LONG=1";
    OnALine site(128, {.half_open_after = 3'000'000, .survivor = LineFaults::Survivor::Client});
    site.finish(240s);
    EXPECT_EQ(site.line().cuts(), 1);
    site.expect_little_sent_twice();
}

TEST(FaultsLong, ABlackHoleOfAMinute) {
    if (!long_tests()) GTEST_SKIP() << "takes minutes: FEDLLM_LONG=1";
    OnALine site(128, {.bytes_per_second = 1'500'000});
    bool dark = false;
    site.finish(240s, [&] {
        if (dark || site.line().taken_from_clients() < 500'000) return;
        dark = true;
        site.line().black_hole(60s);
    });
    EXPECT_TRUE(dark);
    site.expect_little_sent_twice();
}

}  // namespace
}  // namespace fedllm::test
