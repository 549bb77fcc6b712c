// Which versions' files may go: never the first, the newest, or what a task or an audit still needs.
#include "server/engine/retention.hpp"

#include <gtest/gtest.h>

namespace fedllm::server::engine {
namespace {

std::vector<store::VersionRow> versions(std::uint32_t count) {
    std::vector<store::VersionRow> rows(count);
    for (std::uint32_t round = 0; round < count; ++round) rows[round].round = RoundId(round);
    return rows;
}

std::vector<std::uint32_t> expired(std::uint32_t count, std::uint32_t oldest_needed,
                                   const RetentionRules& rules) {
    std::vector<std::uint32_t> rounds;
    for (const RoundId round : expired_versions(versions(count), RoundId(oldest_needed), rules)) {
        rounds.push_back(round.get());
    }
    return rounds;
}

using Rounds = std::vector<std::uint32_t>;

TEST(Retention, TheFirstAndTheNewestStay) {
    EXPECT_EQ(expired(6, 5, {.versions = 2, .updates = 0}), (Rounds{1, 2, 3}));
    EXPECT_EQ(expired(6, 5, {.versions = 4, .updates = 0}), (Rounds{1}));
    EXPECT_EQ(expired(6, 5, {.versions = 100, .updates = 0}), Rounds{});
    EXPECT_EQ(expired(1, 0, {.versions = 2, .updates = 0}), Rounds{});
    EXPECT_EQ(expired(0, 0, {.versions = 2, .updates = 0}), Rounds{});
}

TEST(Retention, TheBaseOfTheNewestStaysWhateverTheRules) {
    EXPECT_EQ(expired(6, 5, {.versions = 0, .updates = 0}), (Rounds{1, 2, 3}));
}

TEST(Retention, ASlowClientsVersionAndTheStepsToItStay) {
    EXPECT_EQ(expired(10, 5, {.versions = 3, .updates = 0}), (Rounds{1, 2}));
    EXPECT_EQ(expired(10, 0, {.versions = 3, .updates = 0}), Rounds{});
}

TEST(Retention, WhatKeptUpdatesStartFromStays) {
    EXPECT_EQ(expired(10, 9, {.versions = 2, .updates = 4}), (Rounds{1, 2, 3, 4}));
}

TEST(Retention, WhatIsGoneIsNotNamedAgain) {
    auto rows = versions(6);
    rows[1].removed = Timestamp{};
    const auto gone = expired_versions(rows, RoundId(5), {.versions = 3, .updates = 0});
    EXPECT_EQ(gone, (std::vector<RoundId>{RoundId(2)}));
}

}  // namespace
}  // namespace fedllm::server::engine
