// Simulated worlds from many seeds: nothing acknowledged is lost, every version is the exact mean, jobs end
// once nothing befalls them any more, and the same seed is the same world.
//
// FEDLLM_WORLD_SEEDS, FEDLLM_WORLD_FIRST and FEDLLM_WORLD_SECONDS choose other seeds and another time box.
#include "tools/world/world.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>

#include "common/base/clock.hpp"
#include "common/log/log.hpp"

namespace fedllm::tools::world {
namespace {

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
    const char* const text = std::getenv(variable);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

class WorldTest : public testing::Test {
protected:
    WorldTest() {
        log::setup(
            {.format = log::Format::Human, .level = log::Level::Error, .sink = [](std::string_view) {}});
    }
    ~WorldTest() override { log::setup({}); }
};

TEST_F(WorldTest, TheSameSeedIsTheSameWorld) {
    for (const std::uint64_t seed : {1, 2, 3, 5, 8, 13, 21, 34}) {
        std::string events[2];
        Outcome outcomes[2];
        for (int turn = 0; turn < 2; ++turn) {
            const auto keep = [&](std::string_view line) { events[turn].append(line).append("\n"); };
            outcomes[turn] = World(draw_plan(seed), keep).run();
        }
        EXPECT_EQ(events[0], events[1]) << "seed " << seed;
        EXPECT_EQ(outcomes[0].hash, outcomes[1].hash) << "seed " << seed;
        EXPECT_EQ(outcomes[0].events, outcomes[1].events) << "seed " << seed;
    }
}

TEST_F(WorldTest, NothingIsLostAndEveryJobEnds) {
    const std::uint64_t first = number_from("FEDLLM_WORLD_FIRST", 1);
    const std::uint64_t wanted = number_from("FEDLLM_WORLD_SEEDS", 2000);
    const auto box = static_cast<double>(number_from("FEDLLM_WORLD_SECONDS", 120));
    const double began = monotonic_seconds();
    std::array<std::uint64_t, kTroubles> seen{};
    std::uint64_t ran = 0, rounds = 0, acknowledged = 0;
    for (; ran < wanted && monotonic_seconds() - began < box; ++ran) {
        const Outcome outcome = World(draw_plan(first + ran)).run();
        ASSERT_FALSE(outcome.violation)
            << "fedllm-world --seed " << first + ran << " replays this: " << *outcome.violation;
        for (std::size_t kind = 0; kind < kTroubles; ++kind) seen[kind] += outcome.troubles[kind];
        rounds += outcome.rounds;
        acknowledged += outcome.acknowledged;
    }
    std::printf("%llu worlds in %.0f s: %llu rounds, %llu updates acknowledged\n",
                static_cast<unsigned long long>(ran), monotonic_seconds() - began,
                static_cast<unsigned long long>(rounds), static_cast<unsigned long long>(acknowledged));
    for (std::size_t kind = 0; kind < kTroubles; ++kind) {
        const std::string what(name(static_cast<Trouble>(kind)));
        std::printf("  %s: %llu\n", what.c_str(), static_cast<unsigned long long>(seen[kind]));
        if (ran < 100) continue;
        EXPECT_GT(seen[kind], 0u) << what << " was never seen: these worlds prove nothing about it";
    }
}

// CPU seconds and the peak of memory are printed, and not judged: they are the machine's.
void run_crowd(std::uint32_t clients, std::uint32_t rounds) {
    const Outcome outcome = World(crowd_plan(clients, rounds)).run();
    EXPECT_FALSE(outcome.violation) << *outcome.violation;
    // From the fourth round on a client is late by its own usual time: a few are, among so many (8 of 100,000
    // in a run of 10,000 clients). Traced with 3,000, in the fourth round: the 2,700th update, which is the
    // minimum, came after 7.75 s. Site-1181 had taken 7.6, 8.0 and 3.3 s before, and so was waited for
    // until 9.51 s (the median and a quarter of it); another, the latest that was expected, until 9.79 s.
    // Then the round closed with 2,997: three clients' work, which takes up to 10 s here and rarely nearly as
    // much, took longer than theirs ever had. That is what deadlines from observed times are for, and no
    // loss: nothing of those three was acknowledged, they are told so and released, the minimum is there
    // without replacements, and the next round asks them again.
    const std::uint64_t asked = std::uint64_t{clients} * rounds;
    EXPECT_LE(outcome.acknowledged, asked);
    EXPECT_GE(outcome.acknowledged, asked - asked / 100);
    EXPECT_EQ(outcome.rounds, rounds);
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    std::printf("%u clients, %u rounds: %.0f s of CPU, %ld MB at most, in this process so far\n", clients,
                rounds, static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec),
                usage.ru_maxrss >> 10);
}

TEST_F(WorldTest, ACrowdInFairWeatherFinishes) {
    run_crowd(200, 3);
    run_crowd(1000, 2);
}

TEST_F(WorldTest, TenThousandClientsFinishTenRounds) {
    if (std::getenv("FEDLLM_LONG") == nullptr) GTEST_SKIP() << "minutes: FEDLLM_LONG=1";
    run_crowd(10'000, 10);
}

}  // namespace
}  // namespace fedllm::tools::world
