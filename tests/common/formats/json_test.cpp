#include "common/formats/json.hpp"

#include <gtest/gtest.h>

namespace fedllm::formats {
namespace {

TEST(Json, ReadsValues) {
    const auto json = parse_json(R"({"a": [1, 2.5, null], "b": {"a": "é"}})", "x.json").value();
    EXPECT_EQ(json["a"][0], 1);
    EXPECT_EQ(json["b"]["a"], "é");
}

TEST(Json, RefusesWhatIsNotStrict) {
    const std::string deep = std::string(100, '[') + std::string(100, ']');
    const std::pair<std::string, std::string> cases[] = {
        {"", "line 1, column 1"},
        {"{\"a\": 1,\n \"b\" 2}", "line 2, column 6"},
        {"{\"a\": 1, \"b\": {\"c\": 1, \"c\": 2}}", "'c' appears twice"},
        {"{\"a\": 1} x", "column 10"},
        {"{\"a\": \"\xff\"}", "UTF-8"},
        {"[1e999]", "number overflow"},
        {std::string("[1]\0[2]", 7), "NUL after 3 bytes"},
        {"{\"a\": NaN}", "column"},
        {deep, "deeper than 64"},
    };
    for (const auto& [text, expected] : cases) {
        const auto result = parse_json(text, "folder/x.json");
        ASSERT_FALSE(result.has_value()) << text;
        EXPECT_EQ(result.error().code, Errc::InvalidFile);
        EXPECT_TRUE(result.error().message.starts_with("folder/x.json: ")) << result.error().message;
        EXPECT_NE(result.error().message.find(expected), std::string::npos) << result.error().message;
    }
}

TEST(Json, EqualKeysInDifferentObjectsAreFine) {
    EXPECT_TRUE(parse_json(R"([{"a": 1}, {"a": 2, "b": {"a": 3}}])", "x").has_value());
}

TEST(Json, ErrorsStayShortWhateverTheInput) {
    const auto result = parse_json("[\"" + std::string(1'000'000, 'a') + "\x01\"]", "x");
    ASSERT_FALSE(result.has_value());
    EXPECT_LT(result.error().message.size(), 400u);
    EXPECT_LT(in_quotes(std::string(100'000, 'a')).size(), 200u);
    EXPECT_EQ(in_quotes("a\n\x1b[31m"), "'a??[31m'");
}

TEST(Json, QuotesTextAndRefusesWhatIsNotUtf8) {
    EXPECT_EQ(quote_json("a\"\n").value(), R"("a\"\n")");
    EXPECT_EQ(quote_json("\xff").error().code, Errc::InvalidArgument);
    EXPECT_EQ(quote_json("\uFFFD").value(), "\"\uFFFD\"");
}

}  // namespace
}  // namespace fedllm::formats
