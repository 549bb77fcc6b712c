#include "common/log/log.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <regex>
#include <thread>
#include <vector>

namespace fedllm::log {
namespace {

class LogTest : public ::testing::Test {
protected:
    void start(Format format, Level level = Level::Info) {
        setup({.format = format, .level = level, .sink = [this](std::string_view line) {
                   lines_.emplace_back(line);
               }});
    }
    void TearDown() override { setup({}); }

    std::vector<std::string> lines_;
};

TEST_F(LogTest, HumanLine) {
    start(Format::Human);
    info("round closed",
         {{"job", "j1"}, {"accepted", 3}, {"loss", 2.5}, {"text", "two words"}, {"ok", true}});
    ASSERT_EQ(lines_.size(), 1u);
    const std::regex shape(
        R"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO  round closed  job=j1 accepted=3 loss=2.5 text="two words" ok=true)");
    EXPECT_TRUE(std::regex_match(lines_[0], shape)) << lines_[0];
}

TEST_F(LogTest, JsonLineIsValidWhateverThePeerSent) {
    start(Format::Json);
    const std::string nasty = std::string("a\"b\\c\n\x01\x7f\xff\xed\xa0\x80 \xc3\xa9") + '\0';
    warn("peer \"said\"", {{"text", nasty},
                           {"nan", std::nan("")},
                           {"third", 1.0 / 3},
                           {"big", std::numeric_limits<std::uint64_t>::max()},
                           {"negative", -7}});
    ASSERT_EQ(lines_.size(), 1u);
    EXPECT_EQ(lines_[0].find('\n'), std::string::npos);
    const auto json = nlohmann::json::parse(lines_[0]);
    EXPECT_EQ(json["level"], "warn");
    EXPECT_EQ(json["msg"], "peer \"said\"");
    EXPECT_EQ(
        json["text"],
        std::string("a\"b\\c\n\x01\x7f\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd \xc3\xa9") + '\0');
    EXPECT_EQ(json["nan"], "nan");
    EXPECT_EQ(json["third"], 1.0 / 3);
    EXPECT_EQ(json["big"], std::numeric_limits<std::uint64_t>::max());
    EXPECT_EQ(json["negative"], -7);
    EXPECT_TRUE(std::regex_match(json["ts"].get<std::string>(),
                                 std::regex(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)")));
}

TEST_F(LogTest, HumanLineCannotBeForged) {
    start(Format::Human);
    error("refused",
          {{"name", "x\n2026-01-01 00:00:00 INFO  fine\x1b[2J"}, {"empty", ""}, {"equals", "a=b"}});
    ASSERT_EQ(lines_.size(), 1u);
    EXPECT_EQ(lines_[0].find('\n'), std::string::npos);
    EXPECT_EQ(lines_[0].find('\x1b'), std::string::npos);
    EXPECT_NE(lines_[0].find(R"(empty="" equals="a=b")"), std::string::npos) << lines_[0];
}

TEST_F(LogTest, LevelsAreFiltered) {
    start(Format::Human, Level::Warn);
    debug("a");
    info("b");
    warn("c");
    error("d");
    EXPECT_EQ(lines_.size(), 2u);
}

TEST_F(LogTest, LinesOfManyThreadsStayWhole) {
    start(Format::Json);
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([t] {
            for (int i = 0; i < 100; ++i) info("line", {{"thread", t}, {"i", i}});
        });
    }
    threads.clear();
    ASSERT_EQ(lines_.size(), 400u);
    for (const auto& line : lines_) EXPECT_TRUE(nlohmann::json::accept(line));
}

}  // namespace
}  // namespace fedllm::log
