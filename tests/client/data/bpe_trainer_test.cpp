#include "client/data/bpe_trainer.hpp"

#include <map>

#include "client/data/byte_level.hpp"
#include "client/data/split_pattern.hpp"
#include "tests/client/data/support.hpp"

namespace fedllm::client::data {
namespace {

constexpr std::size_t kVocabSize = 420;

std::string golden_text() { return read_file(testing::golden() / "text.txt").value(); }

std::string train(std::vector<std::string> texts, std::size_t vocab_size,
                  const BpeTrainerOptions& options = {}) {
    auto result = train_byte_level_bpe(texts, vocab_size, options);
    EXPECT_TRUE(result.has_value()) << to_string(result.error());
    return result.value();
}

// The oracle: all pairs counted anew before each merge, tokens as strings.
std::vector<std::string> naive_merges(const std::string& text, std::size_t count) {
    std::map<std::string, std::size_t> ids;
    for (int byte = 0; byte < 256; ++byte) ids.emplace(std::string(1, static_cast<char>(byte)), ids.size());
    for (auto& [token, id] : ids) id = static_cast<unsigned char>(token[0]);
    std::vector<std::vector<std::string>> words;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = match_length(SplitPattern::Gpt2, text, at);
        words.emplace_back();
        for (const char c : text.substr(at, length)) words.back().emplace_back(1, c);
        at += length;
    }
    std::vector<std::string> merges;
    while (merges.size() < count) {
        std::map<std::pair<std::size_t, std::size_t>,
                 std::pair<std::size_t, std::pair<std::string, std::string>>>
            counts;
        for (const auto& word : words) {
            for (std::size_t i = 0; i + 1 < word.size(); ++i) {
                auto& entry = counts[{ids.at(word[i]), ids.at(word[i + 1])}];
                ++entry.first;
                entry.second = {word[i], word[i + 1]};
            }
        }
        std::pair<std::size_t, std::pair<std::string, std::string>> best{1, {}};
        for (const auto& [pair, entry] : counts) {
            if (entry.first > best.first) best = entry;
        }
        const auto& [left, right] = best.second;
        if (left.empty()) break;
        merges.push_back(to_byte_characters(left) + " " + to_byte_characters(right));
        ids.emplace(left + right, ids.size());
        for (auto& word : words) {
            for (std::size_t i = 0; i + 1 < word.size(); ++i) {
                if (word[i] != left || word[i + 1] != right) continue;
                word[i] += right;
                word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
            }
        }
    }
    return merges;
}

TEST(BpeTrainer, LearnsWhatCountingAnewLearns) {
    const std::string text = golden_text() + " aaaa aaaaaaa aaaaa abababab ababa";
    const auto json = nlohmann::json::parse(train({text}, kVocabSize));
    EXPECT_EQ(json.at("model").at("merges").get<std::vector<std::string>>(),
              naive_merges(text, kVocabSize - 258));
    EXPECT_EQ(json.at("model").at("vocab").size(), kVocabSize);
}

// The file that the golden ids were made with, byte for byte: the Python package loads it and agrees on the
// ids.
TEST(BpeTrainer, WritesTheGoldenFile) {
    const Path path = testing::golden() / "trained.tokenizer.json";
    const std::string trained = train({golden_text()}, kVocabSize);
    if (std::getenv("FEDLLM_UPDATE_GOLDEN")) {
        ASSERT_TRUE(write_file_atomically(path, trained).has_value());
    }
    EXPECT_EQ(trained, read_file(path).value());
}

TEST(BpeTrainer, TheResultLoadsAndRoundTrips) {
    const auto tokenizer = Tokenizer::parse(train({golden_text(), "more text"}, kVocabSize)).value();
    EXPECT_EQ(tokenizer.vocab_size(), kVocabSize);
    EXPECT_EQ(tokenizer.bos(), 0);
    EXPECT_EQ(tokenizer.id_of("<|eos|>"), 1);
    const std::string text = golden_text() + "\x01 🦙\n";
    const auto ids = tokenizer.encode(text, AddSpecial::Yes);
    EXPECT_EQ(ids.front(), 0);
    EXPECT_LT(ids.size(), text.size() * 2 / 3);
    EXPECT_EQ(tokenizer.decode(ids), text);
}

TEST(BpeTrainer, ScantTextGivesASmallerVocabulary) {
    const auto tokenizer = Tokenizer::parse(train({"ab ab"}, 1000)).value();
    EXPECT_EQ(tokenizer.vocab_size(), 259u);
    EXPECT_TRUE(tokenizer.id_of("ab").has_value());
}

TEST(BpeTrainer, LongAndSpecialTokensAreNotLearned) {
    BpeTrainerOptions options;
    options.token_bytes_max = 4;
    const auto json =
        nlohmann::json::parse(train({std::string(400, '='), "--------\n--------"}, 400, options));
    for (const auto& [token, id] : json.at("model").at("vocab").items()) {
        if (id > 1) {
            EXPECT_LE(from_byte_characters(token).size(), 4u) << token;
        }
    }
    options = {};
    options.bos = "xyxy";
    const auto tokenizer = Tokenizer::parse(train({"xyxyxyxy xyxyxyxy xyxyxyxy"}, 300, options));
    ASSERT_TRUE(tokenizer.has_value()) << to_string(tokenizer.error());
    EXPECT_EQ(tokenizer->id_of("xyxy"), 0);
}

TEST(BpeTrainer, BadOptionsAreNamed) {
    const std::vector<std::string> texts{"text"};
    const auto code = [&](std::size_t size, BpeTrainerOptions options) {
        const auto result = train_byte_level_bpe(texts, size, options);
        return result ? Errc::Internal : result.error().code;
    };
    BpeTrainerOptions same;
    same.bos = same.eos;
    EXPECT_EQ(code(300, same), Errc::InvalidArgument);
    EXPECT_EQ(code(257, {}), Errc::InvalidArgument);
    EXPECT_EQ(code(2'000'000, {}), Errc::InvalidArgument);
    const std::vector<std::string> empty{"", ""};
    EXPECT_EQ(train_byte_level_bpe(empty, 300, {}).error().code, Errc::InvalidArgument);
    EXPECT_TRUE(train_byte_level_bpe(std::vector<std::string>{"a\xFF z\xC3"}, 300, {}).has_value());
}

}  // namespace
}  // namespace fedllm::client::data
