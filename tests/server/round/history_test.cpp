#include "server/round/history.hpp"

#include <gtest/gtest.h>

#include "server/round/parts.hpp"

namespace fedllm::server::round {
namespace {

const ClientId kA("a"), kB("b");

History with_times(const std::vector<int>& times) {
    History history;
    std::uint32_t round = 0;
    for (const int time : times) history.accepted(RoundId(round++), kA, Duration(time));
    return history;
}

TEST(History, AsksMoreWhereMoreDropOutAndForgets) {
    History history;
    EXPECT_DOUBLE_EQ(history.drop_out_rate(), 0.05);
    EXPECT_EQ(history.to_ask(1), 1u);
    EXPECT_EQ(history.to_ask(9), 9u) << "9.47 to the nearest";
    EXPECT_EQ(history.to_ask(100), 105u);
    history.closed(RoundId(0), 105, 21);
    EXPECT_DOUBLE_EQ(history.drop_out_rate(), 22.0 / 125.0);
    EXPECT_EQ(history.to_ask(100), 121u);
    history.closed(RoundId(1), 1000, 900);
    EXPECT_EQ(history.to_ask(100), 150u) << "half as many again at most";
    EXPECT_EQ(history.to_ask(1), 1u) << "1.5 clients are one";
    for (std::uint32_t round = 2; round < 10; ++round) history.closed(RoundId(round), 100, 0);
    EXPECT_DOUBLE_EQ(history.drop_out_rate(), 1.0 / 820.0) << "the first two rounds are forgotten";
    EXPECT_EQ(history.to_ask(100), 100u);
}

TEST(History, ExpectsAClientByItsMedianAndSpread) {
    EXPECT_FALSE(with_times({1000, 1000}).expected_time(kA)) << "twice says little";
    EXPECT_EQ(with_times({1000, 1000, 1000}).expected_time(kA), Duration(1250)) << "at least a quarter more";
    // Median 1000, deviations 0 100 100 200 300, their median 100: 1000 + 3 x 148.26.
    EXPECT_EQ(with_times({1000, 900, 1100, 1200, 700}).expected_time(kA), Duration(1444));
    EXPECT_EQ(with_times({1000, 900, 1100, 1200, 60'000}).expected_time(kA), Duration(1100 + 444))
        << "one odd time changes little";
    EXPECT_FALSE(with_times({1000, 1000, 1000}).expected_time(kB));
}

TEST(History, RemembersTheLastRounds) {
    std::vector<int> times(8, 1000);
    times.insert(times.end(), 8, 4000);
    EXPECT_EQ(with_times(times).expected_time(kA), Duration(5000));
    History history = with_times({1000, 1000, 1000});
    history.accepted(RoundId(50), kA, Duration(1000));
    EXPECT_FALSE(history.expected_time(kA)) << "what it did long ago says nothing";
}

TEST(History, ExpectsAnAbsenceFromTheFirstOn) {
    History history;
    EXPECT_FALSE(history.expected_absence(kA));
    history.returned(kA, Duration(4000));
    EXPECT_EQ(history.expected_absence(kA), Duration(5000));
    for (int i = 0; i < 8; ++i) history.returned(kA, Duration(400));
    EXPECT_EQ(history.expected_absence(kA), Duration(500)) << "the last eight";
}

TEST(Parts, KeepTheirTallies) {
    Parts parts;
    const PartKey a{RoundId(1), kA}, b{RoundId(1), kB}, older{RoundId(0), kB};
    parts.put(a, Part{.left = {}});
    parts.put(older, Part{.left = {}, .missing = true});
    EXPECT_EQ(parts.count(PartState::Asked), 2u);
    EXPECT_EQ(parts.counted_on(), 1u);
    EXPECT_EQ(parts.task_of(kB), older);
    parts.put(older, Part{.state = PartState::Refused, .left = {}});
    EXPECT_EQ(parts.missing(), 0u);
    EXPECT_FALSE(parts.task_of(kB));
    parts.put(b, Part{.left = {}});
    parts.erase(older);
    EXPECT_EQ(parts.count(PartState::Refused), 0u);
    EXPECT_EQ(parts.task_of(kB), b);
    parts.erase(b);
    parts.put(a, Part{.state = PartState::Accepted, .left = {}});
    EXPECT_EQ(parts.count(PartState::Asked), 0u);
    EXPECT_EQ(parts.count(PartState::Accepted), 1u);
    EXPECT_EQ(parts.size(), 1u);
    Parts same;
    same.put(a, Part{.state = PartState::Accepted, .left = {}});
    EXPECT_EQ(parts, same);
}

}  // namespace
}  // namespace fedllm::server::round
