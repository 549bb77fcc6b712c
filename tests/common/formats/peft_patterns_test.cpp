#include "common/formats/peft_patterns.hpp"

#include <gtest/gtest.h>

namespace fedllm::formats {
namespace {

using nlohmann::ordered_json;

std::optional<double> find(const ordered_json& patterns, std::string_view module) {
    return ModulePatterns::parse(patterns, -1e9, 1e9).value().find(module);
}

// What re.match(rf"(.*\.)?({key})$", module) says, for each line.
TEST(PeftPatterns, FitAsInPython) {
    const std::string q0 = "model.layers.0.self_attn.q_proj";
    const std::string q10 = "model.layers.10.self_attn.q_proj";
    EXPECT_TRUE(find({{"q_proj", 1}}, q0));
    EXPECT_TRUE(find({{"self_attn.q_proj", 1}}, q0));
    EXPECT_TRUE(find({{q0, 1}}, q0));
    EXPECT_FALSE(find({{"proj", 1}}, q0));  // not after a dot
    EXPECT_FALSE(find({{"q_pro", 1}}, q0));
    EXPECT_FALSE(find({{"x" + q0, 1}}, q0));
    EXPECT_TRUE(find({{"q.proj", 1}}, q0));  // a dot is any character
    EXPECT_TRUE(find({{"layers.0.self_attn.q_proj", 1}}, q0));
    EXPECT_FALSE(find({{"layers.0.self_attn.q_proj", 1}}, q10));
    EXPECT_TRUE(find({{R"(layers\.\d+\.self_attn\.(q|k)_proj)", 1}}, q10));
    EXPECT_FALSE(find({{R"(layers\.\d\.self_attn\.(q|k)_proj)", 1}}, q10));
    EXPECT_TRUE(find({{"^model.*q_proj", 1}}, q0));
    EXPECT_FALSE(find({{"^layers.*q_proj", 1}}, q0));
    EXPECT_TRUE(find({{"k_proj|q_proj", 1}}, q0));
    EXPECT_TRUE(find({{"q_proj$", 1}}, q0));
}

TEST(PeftPatterns, TheFirstThatFitsCounts) {
    EXPECT_EQ(find({{"q_proj", 3}, {".*q_proj", 4}}, "a.q_proj"), 3);
    EXPECT_EQ(find({{".*q_proj", 4}, {"q_proj", 3}}, "a.q_proj"), 4);
    EXPECT_EQ(find(nullptr, "a.q_proj"), std::nullopt);
}

TEST(PeftPatterns, NoPatternHangsTheReader) {
    const std::string module(400, 'a');
    EXPECT_FALSE(find({{"(a*)*(a*)*(a|a)*b", 1}}, module));
}

TEST(PeftPatterns, RefusesWhatItCannotRead) {
    const auto code = [](const ordered_json& patterns) {
        const auto made = ModulePatterns::parse(patterns, 1, 64);
        return made ? Errc::Internal : made.error().code;
    };
    EXPECT_EQ(code({{"(?P<layer>a)", 2}}), Errc::Unsupported);
    EXPECT_EQ(code({{"(", 2}}), Errc::Unsupported);
    EXPECT_EQ(code({{R"((a)\1)", 2}}), Errc::Unsupported);
    EXPECT_EQ(code({{R"(q\66666666666666666666)", 2}}), Errc::Unsupported);
    EXPECT_EQ(code({{"q{99999999999999999999}", 2}}), Errc::Unsupported);
    EXPECT_EQ(code({{R"(layers\.[0-9]{1,3}\.q)", 2}}), Errc::Internal) << "numbers of this size are read";
    EXPECT_EQ(code({{"((((a{1000}){1000}){1000}){1000})", 2}}), Errc::Unsupported);
    EXPECT_EQ(code({{std::string(600, '('), 2}}), Errc::InvalidFile);
    EXPECT_EQ(code({{"", 2}}), Errc::InvalidFile);
    EXPECT_EQ(code({{"q", 0}}), Errc::InvalidFile);
    EXPECT_EQ(code({{"q", 65}}), Errc::InvalidFile);
    EXPECT_EQ(code({{"q", nullptr}}), Errc::InvalidFile);
    EXPECT_EQ(code("q"), Errc::InvalidFile);
}

}  // namespace
}  // namespace fedllm::formats
