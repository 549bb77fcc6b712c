// kill -9 at random times, of the server and of real clients that train: the job ends with the digest of an
// undisturbed run, whatever was cut. Ten of each; fifty with FEDLLM_LONG. FEDLLM_SEED repeats a run's times,
// as far as a real machine can.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <thread>

#include "common/base/philox.hpp"
#include "tests/integration/crowd.hpp"

namespace fedllm::test {
namespace {

int wanted_kills() { return std::getenv("FEDLLM_LONG") != nullptr ? 50 : 10; }

std::uint64_t seed() {
    static const std::uint64_t chosen = [] {
        const char* const given = std::getenv("FEDLLM_SEED");
        const auto now = static_cast<std::uint64_t>(SystemClock().now().time_since_epoch().count());
        const std::uint64_t number = given != nullptr ? std::strtoull(given, nullptr, 10) : now;
        std::printf("FEDLLM_SEED=%llu\n", static_cast<unsigned long long>(number));
        return number;
    }();
    return chosen;
}

Duration draw(Rng& rng, int from_ms, int to_ms) {
    return Duration(static_cast<long>(rng.uniform(static_cast<float>(from_ms), static_cast<float>(to_ms))));
}

// One program, started again and again with the same arguments.
class Program {
public:
    Program(std::vector<std::string> words, Path log) : words_(std::move(words)), log_(std::move(log)) {}
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;
    ~Program() { kill(); }

    void start() {
        posix_spawn_file_actions_t files;
        posix_spawn_file_actions_init(&files);
        posix_spawn_file_actions_addopen(&files, 1, log_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
        posix_spawn_file_actions_adddup2(&files, 1, 2);
        std::vector<char*> arguments;
        for (std::string& word : words_) arguments.push_back(word.data());
        arguments.push_back(nullptr);
        const int failed =
            posix_spawn(&process_, words_.front().c_str(), &files, nullptr, arguments.data(), environ);
        posix_spawn_file_actions_destroy(&files);
        ASSERT_EQ(failed, 0) << "cannot run " << words_.front();
    }
    int wait() {
        int status = 0;
        waitpid(std::exchange(process_, -1), &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    void kill() {
        if (process_ < 0) return;
        ::kill(process_, SIGKILL);
        wait();
    }

private:
    std::vector<std::string> words_;
    Path log_;
    pid_t process_ = -1;
};

// Killed for ever before three clients can meet, a job gets nowhere.
constexpr int kKillsEachJob = 8;

// How often the server was killed, and how long it was away at most.
struct ServerKills {
    int count = 0;
    double slowest = 0;

    void kill_and_start(Federation& federation) {
        federation.kill();
        const double began = monotonic_seconds();
        federation.start();  // fails the test when it does not serve
        slowest = std::max(slowest, monotonic_seconds() - began);
        ++count;
    }
};

TEST(Kill, ServerAtRandomTimesChangesNothing) {
    Rng rng(seed(), "server");
    std::string undisturbed;
    ServerKills kills;
    for (int job = 0; kills.count < wanted_kills(); ++job) {
        Federation federation;
        federation.start();
        TinyJob{.clients = 3, .minimum = 3, .rounds = 3, .download_codec = "deadzone"}.submit(federation);
        Crowd crowd(federation, {"ash", "birch", "cedar"}, [](int) {});
        std::jthread killer;
        if (job > 0) {
            killer = std::jthread([&](std::stop_token stop) {
                for (int left = kKillsEachJob; left > 0; --left) {
                    std::this_thread::sleep_for(draw(rng, 1, 150));
                    if (stop.stop_requested()) break;
                    kills.kill_and_start(federation);
                }
            });
        }
        const std::string digest = crowd.run();
        killer.request_stop();
        if (killer.joinable()) killer.join();
        if (job == 0) undisturbed = digest;
        ASSERT_EQ(digest, undisturbed) << "job " << job;
        if (HasFailure()) return;
    }
    std::printf("%d kills of the server; serving again after at most %.2f s\n", kills.count, kills.slowest);
}

// ---------------------------------------------------------------------------------- with clients that train

constexpr const char* kBase = "deploy/demo/base";

class Sites {
public:
    Sites() {
        for (const std::string name : {"ash", "birch", "cedar"}) {
            const Path folder = federation_.invite(name).key.parent_path();
            write_data(folder / "data.jsonl", name);
            std::ofstream(folder / "client.yaml")
                << "server: {host: 127.0.0.1, port: " << federation_.port()
                << "}\nmodels: {demo-base: " << std::filesystem::absolute(kBase).string()
                << "}\ndata: {path: data.jsonl, eval_fraction: 0.2}\ndevice: cpu\nthreads: 1\n";
            clients_.push_back(std::make_unique<Program>(
                std::vector<std::string>{FEDLLM_CLIENT_PROGRAM, "--config", folder / "client.yaml"},
                federation_.folder() / (name + ".log")));
        }
    }

    Federation& federation() { return federation_; }
    Program& client(std::size_t number) { return *clients_[number]; }
    std::size_t size() const { return clients_.size(); }

    void start() {
        federation_.start();
        for (const auto& client : clients_) client->start();
        const Path recipe = federation_.folder() / "job.yaml";
        std::ofstream(recipe) << "name: kill\nbase_model: demo-base\nseed: 7\n"
                                 "lora: {rank: 4, alpha: 8, target_modules: [q_proj, v_proj]}\n"
                                 "rounds: 3\nclients_per_round: 3\nclients_minimum: 3\nsamples_max: 1000\n"
                                 "train: {local_steps: 6, batch_rows: 4, sequence_length: 64}\n";
        Program submit(
            {FEDLLM_TOOL_PROGRAM, "job", "submit", recipe, "--model", kBase, "--dir", federation_.folder()},
            federation_.folder() / "submit.log");
        submit.start();
        ASSERT_EQ(submit.wait(), 0) << read_file(federation_.folder() / "submit.log").value();
    }

    // Nothing while it runs; disturbed from outside meanwhile.
    std::optional<std::string> final_digest() const {
        const auto link = federation_.operator_link();
        if (!link) return std::nullopt;
        const auto report = (*link)->show_job(JobId("j1"));
        if (!report || report->summary().state() != "finished") return std::nullopt;
        return report->summary().model_digest();
    }

private:
    static void write_data(const Path& file, const std::string& site) {
        Rng rng(5, site);
        const char* const words[] = {"the",  "of",   "and",  "tree", "leaf",
                                     "root", "bark", "wind", "rain", "seed"};
        std::ofstream out(file);
        for (int row = 0; row < 40; ++row) {
            out << R"({"text": "In the )" << site << " wood";
            for (int i = 0; i < 30; ++i) out << ' ' << words[rng.next_u32() % 10];
            out << ".\"}\n";
        }
    }

    Federation federation_;
    std::vector<std::unique_ptr<Program>> clients_;
};

// Kills whoever is drawn and starts it again at once, `left` times, and waits for the job.
std::string disturb(Sites& sites, Rng& rng, ServerKills& server, int& client_kills, int left) {
    const double give_up = monotonic_seconds() + 300;
    while (monotonic_seconds() < give_up) {
        std::this_thread::sleep_for(draw(rng, 100, 900));
        if (const auto digest = sites.final_digest()) return *digest;
        if (left == 0) continue;
        --left;
        if (rng.next_u32() % 2 == 0) {
            server.kill_and_start(sites.federation());
        } else {
            Program& client = sites.client(rng.next_u32() % sites.size());
            client.kill();
            client.start();
            ++client_kills;
        }
    }
    ADD_FAILURE() << "the job did not finish";
    return "";
}

TEST(Kill, AnyDaemonAtRandomTimesChangesNothing) {
    Rng rng(seed(), "daemons");
    std::string undisturbed;
    ServerKills server;
    int clients = 0;
    for (int job = 0; std::min(server.count, clients) < wanted_kills(); ++job) {
        Sites sites;
        sites.start();
        const std::string digest = disturb(sites, rng, server, clients, job > 0 ? kKillsEachJob : 0);
        if (job == 0) undisturbed = digest;
        ASSERT_EQ(digest, undisturbed) << "job " << job;
        if (HasFailure()) return;
    }
    std::printf("%d kills of the server, which served again after at most %.2f s, %d of clients\n",
                server.count, server.slowest, clients);
}

}  // namespace
}  // namespace fedllm::test
