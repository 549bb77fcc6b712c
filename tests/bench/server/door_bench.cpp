// What strangers at the door cost those inside:
//
//   door_bench [MEGABYTES [CLIENTS [SECONDS [HALF_OPEN [SLOW [STAY_MS]]]]]]
//
// A real server in a process of its own and rounds of one job that never ends, timed for a while alone, then
// for SECONDS beside HALF_OPEN connections that say nothing and SLOW ones that say a byte a second, then
// alone again. Strangers stay until they are hung up on, and come again two seconds later; or they go by
// themselves after STAY_MS, which makes them come far more often than any server of today can let them (the
// harsh form: 200).
//
// Strangers live on machines of their own; here they take processor time from both sides, on a thread whose
// time is printed. It runs at no lower priority: that would hide what the kernel does for the server in their
// context.
#include <cmath>
#include <cstdlib>

#include "server/edge/descriptors.hpp"
#include "tests/bench/server/sites.hpp"
#include "tests/support/strangers.hpp"
#include "tools/bench/plain_job.hpp"

namespace fedllm::bench {
namespace {

using test::Strangers;
using test::StrangersOptions;

struct Case {
    std::uint64_t megabytes = 40;
    std::uint32_t clients = 4;
    double seconds = 120;
    StrangersOptions strangers;
};

// The rounds that end while it watches. A round is from its first Task to the next one's.
struct Rounds {
    std::uint32_t round = 0;
    double began = 0;  // 0: in the middle of one that does not count
    std::vector<double> seconds;

    void on_task(const protocol::Task& task) {
        if (task.round() == round) return;
        const double now = monotonic_seconds();
        if (began > 0) seconds.push_back(now - began);
        round = task.round();
        began = now;
    }
};

struct Phase {
    double median = 0;  // seconds a round
    double mean = 0;
    double server_share = 0;  // of one core
    std::size_t rounds = 0;
};

Phase measure(Sites& sites, Rounds& rounds, pid_t server, double seconds) {
    rounds.began = 0;
    rounds.seconds.clear();
    const double began = monotonic_seconds(), core = core_seconds_of(server);
    sites.rest(seconds);
    const double took = monotonic_seconds() - began;
    std::vector<double>& times = rounds.seconds;
    if (times.empty()) return {};
    std::sort(times.begin(), times.end());
    double sum = 0;
    for (const double time : times) sum += time;
    return {.median = times[times.size() / 2],
            .mean = sum / static_cast<double>(times.size()),
            .server_share = (core_seconds_of(server) - core) / took,
            .rounds = times.size()};
}

void print(const char* when, const Phase& phase) {
    std::printf("%s: %zu rounds, median %.1f ms, mean %.1f ms; the server took %.2f of a core\n", when,
                phase.rounds, 1e3 * phase.median, 1e3 * phase.mean, phase.server_share);
    std::fflush(stdout);
}

// Beside nothing else: what an arrival costs, both sides' processor time.
void price(Sites& sites, Strangers& strangers, pid_t server, double seconds) {
    const std::uint64_t before = strangers.arrivals();
    const double core = core_seconds_of(server), theirs = strangers.core_seconds();
    sites.rest(seconds);
    const auto arrivals = static_cast<double>(strangers.arrivals() - before);
    std::printf(
        "no rounds, strangers only: %.0f arrivals/s, %d present; an arrival costs the server %.0f us, "
        "the strangers' thread %.0f us\n",
        arrivals / seconds, strangers.present(), 1e6 * (core_seconds_of(server) - core) / arrivals,
        1e6 * (strangers.core_seconds() - theirs) / arrivals);
    std::fflush(stdout);
}

Error missing(const char* what) { return make_error(Errc::Timeout, std::string(what) + " did not come"); }

Result<void> run(const Case& wanted) {
    FEDLLM_TRY(const ScratchFolder scratch, ScratchFolder::make("."));
    FEDLLM_TRY(ServerProcess server, ServerProcess::make(scratch.path() / "hub"));
    FEDLLM_TRY_VOID(server.start());
    const pid_t process = server.process();
    FEDLLM_TRY(const auto sites, Sites::make(server, wanted.clients));
    const PlainJob job{.bytes = std::max<std::uint64_t>(wanted.megabytes * 1'000'000, 4096),
                       .clients = wanted.clients,
                       .rounds = 1'000'000};
    FEDLLM_TRY(const ReadyUpdate update, job.make_update(scratch.path() / "update"));
    Rounds rounds;
    SiteOptions options = sites->options(update);
    options.on_task = [&](const protocol::Task& task) { rounds.on_task(task); };
    StrangersOptions strange = wanted.strangers;
    strange.port = server.port();
    {
        const auto memory = static_cast<double>(memory_of(process).resident);
        Strangers strangers(strange);
        sites->rest(8);  // all have come, and none has been there for too long
        std::printf("%d strangers present, the server's memory grew by %.1f MiB\n", strangers.present(),
                    (static_cast<double>(memory_of(process).resident) - memory) / 0x1p20);
        sites->rest(7);
        price(*sites, strangers, process, 24);  // twice the ten seconds of patience and two of absence
    }
    sites->rest(2);
    if (!sites->connect(wanted.clients, options, 60)) return missing("all connections");
    FEDLLM_TRY([[maybe_unused]] const JobId id, job.submit(server));
    if (!sites->run_until([&] { return rounds.round >= 3; }, 60)) return missing("the third round");
    sites->rest(15);  // the first ones are slower
    const double alone = std::max(10.0, wanted.seconds / 5);
    const Phase before = measure(*sites, rounds, process, alone);
    print("alone", before);
    Phase beside;
    {
        Strangers strangers(strange);
        sites->rest(15);  // until the first of them have come again
        const std::uint64_t arrived = strangers.arrivals();
        const double theirs = strangers.core_seconds();
        beside = measure(*sites, rounds, process, wanted.seconds);
        print("beside strangers", beside);
        std::printf("  %d of %d present, %.0f arrivals/s, their thread took %.2f of a core\n",
                    strangers.present(), strange.half_open + strange.slow,
                    static_cast<double>(strangers.arrivals() - arrived) / wanted.seconds,
                    (strangers.core_seconds() - theirs) / wanted.seconds);
    }
    sites->rest(2);
    const Phase after = measure(*sites, rounds, process, alone);
    print("alone again", after);
    const double median = (before.median + after.median) / 2, mean = (before.mean + after.mean) / 2;
    std::printf("a round beside strangers is %+.1f %% longer by the median, %+.1f %% by the mean (goal 10)\n",
                100 * (beside.median / median - 1), 100 * (beside.mean / mean - 1));
    return {};
}

std::uint64_t number(int argc, char** argv, int at, std::uint64_t otherwise) {
    return argc > at ? std::strtoull(argv[at], nullptr, 10) : otherwise;
}

}  // namespace
}  // namespace fedllm::bench

int main(int argc, char** argv) {
    using namespace fedllm::bench;
    fedllm::server::edge::raise_descriptor_limit();
    Case wanted;
    wanted.megabytes = number(argc, argv, 1, 40);
    wanted.clients = static_cast<std::uint32_t>(number(argc, argv, 2, 4));
    wanted.seconds = static_cast<double>(number(argc, argv, 3, 120));
    wanted.strangers.half_open = static_cast<int>(number(argc, argv, 4, 10'000));
    wanted.strangers.slow = static_cast<int>(number(argc, argv, 5, 1000));
    wanted.strangers.stays = std::chrono::milliseconds(number(argc, argv, 6, 86'400'000));
    const auto done = run(wanted);
    if (!done) std::fprintf(stderr, "door_bench: %s\n", to_string(done.error()).c_str());
    return done ? 0 : 1;
}
