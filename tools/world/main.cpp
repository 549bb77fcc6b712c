// fedllm-world: a tool for developers. Replays one simulated world event by event, or runs many.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "common/base/clock.hpp"
#include "common/log/log.hpp"
#include "tools/world/world.hpp"

namespace {

using namespace fedllm;
using namespace fedllm::tools::world;

void print(const Outcome& outcome, double seconds) {
    std::printf(
        "%s\n%llu events, %.0f virtual seconds, %llu rounds, %llu updates acknowledged, %llu of %llu bytes "
        "uploaded, hash %016llx, %.2f s\n",
        outcome.violation ? ("VIOLATED: " + *outcome.violation).c_str() : "all is well",
        static_cast<unsigned long long>(outcome.events), outcome.virtual_seconds,
        static_cast<unsigned long long>(outcome.rounds),
        static_cast<unsigned long long>(outcome.acknowledged),
        static_cast<unsigned long long>(outcome.update_bytes),
        static_cast<unsigned long long>(outcome.uploaded_bytes),
        static_cast<unsigned long long>(outcome.hash), seconds);
    for (std::size_t kind = 0; kind < kTroubles; ++kind) {
        if (outcome.troubles[kind] > 0) {
            std::printf("  %s: %llu\n", std::string(name(static_cast<Trouble>(kind))).c_str(),
                        static_cast<unsigned long long>(outcome.troubles[kind]));
        }
    }
}

double peak_megabytes() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<double>(usage.ru_maxrss) / 1024;
}

Outcome run(const Plan& plan, bool quiet) {
    const auto sink = [quiet](std::string_view line) {
        if (!quiet) std::printf("%.*s\n", static_cast<int>(line.size()), line.data());
    };
    return World(plan, sink).run();
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app(
        "Simulated federations: the real server and clients on a simulated network and disk, in virtual "
        "time.");
    std::uint64_t seed = 1, count = 1;
    std::uint32_t clients = 0, rounds = 10;
    bool log = false;
    app.add_option("--seed", seed, "the world to run, or the first of them");
    app.add_option("--count", count, "how many; more than one run without their events");
    app.add_flag("--log", log, "the daemons' own log lines among the events");
    app.add_option("--clients", clients, "a crowd in fair weather instead");
    app.add_option("--rounds", rounds, "of the crowd");
    CLI11_PARSE(app, argc, argv);
    std::setvbuf(stdout, nullptr, _IOLBF, 1 << 16);
    log::setup(
        {.format = log::Format::Human, .level = log::Level::Debug, .sink = [log](std::string_view line) {
             if (log) std::printf("    %.*s\n", static_cast<int>(line.size()), line.data());
         }});
    bool well = true;
    for (std::uint64_t number = seed; number < seed + count; ++number) {
        const double began = monotonic_seconds();
        const Outcome outcome =
            run(clients > 0 ? crowd_plan(clients, rounds) : draw_plan(number), count > 1 || clients > 0);
        well = well && !outcome.violation;
        if (count == 1 || outcome.violation) {
            std::printf("seed %llu: ", static_cast<unsigned long long>(number));
            print(outcome, monotonic_seconds() - began);
        }
    }
    std::printf("peak memory %.0f MB\n", peak_megabytes());
    return well ? 0 : 1;
}
