// A real server, in a process of its own, under many real TLS connections.
//
//   load_bench memory [CLIENTS [PARTICIPANTS [MEGABYTES]]]   its memory by connection, idle and in a round
//
//   load_bench model [CLIENTS [MEGABYTES [SUM_BITS]]]        its anonymous memory beside a large model's size
//
//   load_bench close [CLIENTS [ROUNDS [MEGABYTES]]]          from a round's last byte to the next broadcast
//
//   load_bench thousand [CLIENTS [ROUNDS]]                   rounds of a tiny job, then a restart
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "common/base/clock.hpp"
#include "tests/bench/server/sites.hpp"
#include "tools/bench/plain_job.hpp"
#include "tools/bench/stopwatch.hpp"

namespace fedllm::bench {
namespace {

using namespace tools::bench;
namespace asio = net::asio;

constexpr double kKibibyte = 1024;

struct Setting {
    ScratchFolder scratch;
    ServerProcess server;
};

Result<Setting> set_up() {
    FEDLLM_TRY(ScratchFolder scratch, ScratchFolder::make("."));
    FEDLLM_TRY(ServerProcess server, ServerProcess::make(scratch.path() / "hub"));
    server.config().limits.connections_max = 20'000;
    FEDLLM_TRY_VOID(server.start());
    return Setting{std::move(scratch), std::move(server)};
}

// ----------------------------------------------------------------------------------------------- memory

double each_beyond_four(const Memory& now, const Memory& four, std::size_t clients) {
    return static_cast<double>(now.resident - four.resident) / kKibibyte / static_cast<double>(clients - 4);
}

Error missing(const char* what) { return make_error(Errc::Timeout, std::string(what) + " did not come"); }

// How many send at the same time: who was told to go on and has no verdict yet.
struct Sending {
    std::size_t now = 0;
    std::size_t most = 0;
    void watch(SiteOptions& options) {
        options.on_proceed = [this] { most = std::max(most, ++now); };
        options.on_verdict = [this](const protocol::Verdict&) { now -= now > 0; };
    }
};

Result<void> idle_memory(std::size_t clients) {
    FEDLLM_TRY(Setting setting, set_up());
    FEDLLM_TRY(const auto sites, Sites::make(setting.server, clients));
    std::optional<Memory> four;
    for (const std::size_t count : {std::size_t{4}, std::min<std::size_t>(100, clients), clients}) {
        if (!sites->connect(count, sites->options(), 300)) return missing("all connections");
        sites->rest(1);
        const Memory now = memory_of(setting.server.process());
        if (!four) four = now;
        std::printf("%5zu connected, idle: %7.1f MiB resident", count,
                    static_cast<double>(now.resident) / 0x1p20);
        if (count > 4) std::printf(", %5.1f KiB each beyond the fourth", each_beyond_four(now, *four, count));
        std::printf("\n");
        std::fflush(stdout);
    }
    return {};
}

// The peak of one round with `clients` connected, of which `participants` take part.
Result<Memory> round_memory(std::size_t clients, std::size_t participants, std::uint64_t bytes) {
    FEDLLM_TRY(Setting setting, set_up());
    FEDLLM_TRY(const auto sites, Sites::make(setting.server, clients));
    const PlainJob job{.bytes = bytes, .clients = static_cast<std::uint32_t>(participants), .rounds = 1};
    FEDLLM_TRY(const ReadyUpdate update, job.make_update(setting.scratch.path() / "update"));
    bool over = false;
    Sending sending;
    SiteOptions options = sites->options(update);
    sending.watch(options);
    options.on_task = [&](const protocol::Task& task) {
        over |= task.kind() == protocol::TASK_KIND_EVALUATE;
    };
    if (!sites->connect(clients, options, 300)) return missing("all connections");
    FEDLLM_TRY([[maybe_unused]] const JobId id, job.submit(setting.server));
    const PeakWatch peak(setting.server.process());
    const Stopwatch watch;
    if (!sites->run_until([&] { return over; }, 600)) return missing("the end of the round");
    std::printf(
        "%5zu connected, %zu of them send %.0f MB each, %zu at once: %7.1f MiB resident at the peak, %.1f "
        "MiB "
        "anonymous, %.1f s\n",
        clients, participants, static_cast<double>(bytes) / 1e6, sending.most,
        static_cast<double>(peak.resident()) / 0x1p20, static_cast<double>(peak.anonymous()) / 0x1p20,
        watch.seconds());
    std::fflush(stdout);
    return Memory{.resident = peak.resident(), .resident_peak = 0, .anonymous = peak.anonymous()};
}

Result<void> memory(std::size_t clients, std::size_t participants, std::uint64_t bytes) {
    FEDLLM_TRY_VOID(idle_memory(clients));
    FEDLLM_TRY(const Memory four, round_memory(4, 4, bytes));
    FEDLLM_TRY(const Memory many, round_memory(clients, participants, bytes));
    std::printf("during the round: %.1f KiB of resident memory each beyond the fourth (goal 160)\n",
                each_beyond_four(many, four, clients));
    return {};
}

// ------------------------------------------------------------------------------------------------ model

Result<void> model(std::size_t clients, std::uint64_t bytes, std::uint32_t sum_bits) {
    FEDLLM_TRY(Setting setting, set_up());
    FEDLLM_TRY(const auto sites, Sites::make(setting.server, clients));
    const PlainJob job{
        .bytes = bytes, .clients = static_cast<std::uint32_t>(clients), .rounds = 1, .sum_bits = sum_bits};
    FEDLLM_TRY(const ReadyUpdate update, job.make_update(setting.scratch.path() / "update"));
    FEDLLM_TRY([[maybe_unused]] const JobId id, job.submit(setting.server));
    const PeakWatch peak(setting.server.process());
    const Stopwatch watch;
    bool over = false;
    SiteOptions options = sites->options(update);
    options.on_task = [&](const protocol::Task& task) {
        over |= task.kind() == protocol::TASK_KIND_EVALUATE;
    };
    if (!sites->connect(clients, options, 300)) return missing("all connections");
    if (!sites->run_until([&] { return over; }, 1200)) return missing("the end of the round");
    const auto times = [&](std::uint64_t memory) {
        return static_cast<double>(memory) / static_cast<double>(bytes);
    };
    std::printf(
        "a model of %.0f MB, %zu clients, sums of %u bits: %.0f MB anonymous at the peak, %.3f models (goal "
        "%s); resident, pages of files among them, %.2f; a round of %.1f s\n",
        static_cast<double>(bytes) / 1e6, clients, sum_bits, static_cast<double>(peak.anonymous()) / 1e6,
        times(peak.anonymous()), sum_bits == 32 ? "1.2" : "2.2", times(peak.resident()), watch.seconds());
    return {};
}

// ------------------------------------------------------------------------------------------------ close

// Of fedllm_round_close_seconds on the server's page, in ms: as Prometheus' histogram_quantile() has it.
double close_at(const std::string& page, double share) {
    const std::string series = "fedllm_round_close_seconds_bucket{";
    std::vector<std::pair<double, double>> buckets;  // up to these seconds: so many
    for (std::size_t at = 0; (at = page.find(series, at)) != std::string::npos; at += series.size()) {
        const std::size_t bound = page.find("le=\"", at) + 4;
        buckets.emplace_back(std::strtod(page.c_str() + bound, nullptr),
                             std::strtod(page.c_str() + page.find('}', bound) + 1, nullptr));
    }
    if (buckets.empty() || buckets.back().second == 0) return std::nan("");
    const double rank = share * buckets.back().second;
    std::pair<double, double> below{0, 0};
    for (const auto& bucket : buckets) {
        if (bucket.second >= rank) {
            if (std::isinf(bucket.first)) break;
            const double within = (rank - below.second) / std::max(1.0, bucket.second - below.second);
            return 1e3 * (below.first + within * (bucket.first - below.first));
        }
        below = bucket;
    }
    return 1e3 * below.first;
}

// What the server counts, from the last byte of a round's last update to the first one of the next broadcast;
// and what the clients see, the way of the messages included: from the round's last Verdict to the first
// Task. One site fetches every version, the others trust what it would be.
Result<void> close(std::size_t clients, std::uint32_t rounds, std::uint64_t bytes) {
    constexpr double kGoal = 50;  // ms, of 40 MB and 100 clients
    FEDLLM_TRY(Setting setting, set_up());
    FEDLLM_TRY(const auto sites, Sites::make(setting.server, clients));
    const PlainJob job{.bytes = bytes, .clients = static_cast<std::uint32_t>(clients), .rounds = rounds};
    FEDLLM_TRY(const ReadyUpdate update, job.make_update(setting.scratch.path() / "update"));
    std::uint32_t round = 0;
    double last_verdict = 0;
    std::vector<double> pauses;
    bool over = false;
    SiteOptions options = sites->options(update);
    options.on_verdict = [&](const protocol::Verdict&) { last_verdict = monotonic_seconds(); };
    options.on_task = [&](const protocol::Task& task) {
        if (task.round() != round) pauses.push_back(1e3 * (monotonic_seconds() - last_verdict));
        round = task.round();
        over |= task.kind() == protocol::TASK_KIND_EVALUATE;
    };
    if (!sites->connect(1, options, 300)) return missing("the first connection");
    options.download = false;
    if (!sites->connect(clients, options, 300)) return missing("all connections");
    FEDLLM_TRY([[maybe_unused]] const JobId id, job.submit(setting.server));
    if (!sites->run_until([&] { return over; }, 1200)) return missing("the end of the job");
    sites->rest(1);  // the last broadcast begins
    std::sort(pauses.begin(), pauses.end());
    const auto pause_at = [&](double share) {
        return pauses[static_cast<std::size_t>(std::ceil(share * static_cast<double>(pauses.size() - 1)))];
    };
    const std::string page = setting.server.metrics();
    std::printf("close of a round, %zu clients, %.0f MB, %zu rounds:\n", clients,
                static_cast<double>(bytes) / 1e6, pauses.size());
    std::printf(
        "  last byte to the next broadcast's first, by the server: p50 %.0f ms, p99 %.0f ms (goal: %.0f)\n",
        close_at(page, 0.5), close_at(page, 0.99), kGoal);
    std::printf("  last Verdict to the next Task, by the clients: p50 %.1f ms, p99 %.1f ms\n", pause_at(0.5),
                pause_at(0.99));
    return {};
}

// --------------------------------------------------------------------------------------------- thousand

Result<void> thousand(std::size_t clients, std::uint32_t rounds) {
    FEDLLM_TRY(Setting setting, set_up());
    FEDLLM_TRY(const auto sites, Sites::make(setting.server, clients));
    const PlainJob job{.bytes = 4096, .clients = static_cast<std::uint32_t>(clients), .rounds = rounds};
    FEDLLM_TRY(const ReadyUpdate update, job.make_update(setting.scratch.path() / "update"));
    bool over = false;
    SiteOptions options = sites->options(update);
    options.on_task = [&](const protocol::Task& task) {
        over |= task.kind() == protocol::TASK_KIND_EVALUATE;
    };
    Stopwatch watch;
    if (!sites->connect(clients, options, 300)) return missing("all connections");
    std::printf("%zu connections made and greeted in %.1f s\n", clients, watch.seconds());
    FEDLLM_TRY([[maybe_unused]] const JobId id, job.submit(setting.server));
    watch = Stopwatch();
    if (!sites->run_until([&] { return over; }, 600)) return missing("the end of the job");
    std::printf("%u rounds of all %zu in %.1f s\n", rounds, clients, watch.seconds());
    std::fflush(stdout);
    setting.server.kill();
    sites->rest(0.5);
    watch = Stopwatch();
    FEDLLM_TRY_VOID(setting.server.start());
    const double serving = watch.seconds();
    if (!sites->run_until([&] { return sites->connected() == clients; }, 300))
        return missing("those who left");
    std::printf("after kill -9: serving again in %.2f s, all %zu back in %.1f s\n", serving, clients,
                watch.seconds());
    return {};
}

std::uint64_t number(int argc, char** argv, int at, std::uint64_t otherwise) {
    return argc > at ? std::strtoull(argv[at], nullptr, 10) : otherwise;
}

Result<void> run(int argc, char** argv) {
    const std::string what = argc > 1 ? argv[1] : "";
    if (what == "memory") {
        return memory(number(argc, argv, 2, 1000), number(argc, argv, 3, 64),
                      number(argc, argv, 4, 40) * 1'000'000);
    }
    if (what == "model") {
        return model(number(argc, argv, 2, 16), number(argc, argv, 3, 3000) * 1'000'000,
                     static_cast<std::uint32_t>(number(argc, argv, 4, 64)));
    }
    if (what == "close") {
        return close(number(argc, argv, 2, 100), static_cast<std::uint32_t>(number(argc, argv, 3, 10)),
                     number(argc, argv, 4, 40) * 1'000'000);
    }
    if (what == "thousand") {
        return thousand(number(argc, argv, 2, 1000), static_cast<std::uint32_t>(number(argc, argv, 3, 10)));
    }
    return make_error(Errc::InvalidArgument,
                      "memory, model, close or thousand: see the top of load_bench.cpp");
}

}  // namespace
}  // namespace fedllm::bench

int main(int argc, char** argv) {
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
    const auto done = fedllm::bench::run(argc, argv);
    if (!done) std::fprintf(stderr, "load_bench: %s\n", to_string(done.error()).c_str());
    return done ? 0 : 1;
}
