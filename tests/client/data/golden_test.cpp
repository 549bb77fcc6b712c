// Small tokenizers of every supported kind against ids from the `tokenizers` package (golden/).
#include "tests/client/data/support.hpp"

namespace fedllm::client::data {
namespace {

using Ids = std::vector<std::int32_t>;

class TokenizerGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(TokenizerGolden, SameIdsAndText) {
    const Path path = testing::golden() / ("tokenizer_" + std::string(GetParam()) + ".json");
    const auto golden = nlohmann::json::parse(read_file(path).value());
    const auto tokenizer = Tokenizer::parse(golden.at("tokenizer").dump());
    ASSERT_TRUE(tokenizer.has_value()) << to_string(tokenizer.error());
    ASSERT_GT(golden.at("cases").size(), 200u);
    for (const auto& one : golden.at("cases")) {
        const auto text = one.at(0).get<std::string>();
        EXPECT_EQ(tokenizer->encode(text), one.at(1).get<Ids>()) << one.at(0).dump();
        EXPECT_EQ(tokenizer->encode(text, AddSpecial::Yes), one.at(2).get<Ids>()) << one.at(0).dump();
        EXPECT_EQ(tokenizer->decode(one.at(3).get<Ids>()), one.at(4).get<std::string>()) << one.at(3).dump();
    }
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerGolden,
                         ::testing::Values("gpt2", "gpt2_prefix", "digits", "llama3", "qwen2", "llama2",
                                           "metaspace", "unknown", "trained"),
                         [](const auto& kind) { return std::string(kind.param); });

}  // namespace
}  // namespace fedllm::client::data
