#include "tools/bench/exchange.hpp"

#include <gtest/gtest.h>

#include "tests/support/temp_dir.hpp"

namespace fedllm::tools::bench {
namespace {

void quiet(const std::string&) {}

TEST(Exchange, RealRoundsMoveEveryByteTwiceForEachClient) {
    test::TempDir folder;
    const auto report =
        run_exchange({.bytes = 3'000'000, .clients = 3, .rounds = 2, .folder = folder.path()}, quiet);
    ASSERT_TRUE(report) << to_string(report.error());
    EXPECT_EQ(report->round_seconds.size(), 2u);
    for (const double seconds : report->round_seconds) EXPECT_GT(seconds, 0.0);
    EXPECT_GT(report->bare_seconds, 0.0);
    EXPECT_NEAR(static_cast<double>(report->bytes_per_round), 2.0 * 3 * 3e6, 1e5);
    EXPECT_GT(report->server_anonymous_peak, 3'000'000u) << "at least the sum";
    EXPECT_GE(report->server_resident_peak, report->server_anonymous_peak);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path())) << "what was made is gone";
}

TEST(Exchange, SaysWhereThereIsNoRoom) {
    test::TempDir folder;
    const auto report = run_exchange(
        {.bytes = std::uint64_t{1} << 50, .clients = 2, .rounds = 1, .folder = folder.path()}, quiet);
    ASSERT_FALSE(report);
    EXPECT_EQ(report.error().code, Errc::InvalidArgument);
    EXPECT_NE(report.error().message.find("--dir"), std::string::npos) << report.error().message;
}

}  // namespace
}  // namespace fedllm::tools::bench
