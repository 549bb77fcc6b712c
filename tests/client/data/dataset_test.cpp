#include "client/data/dataset.hpp"

#include <algorithm>
#include <set>

#include "tests/client/data/support.hpp"

namespace fedllm::client::data {
namespace {

using testing::byte_tokenizer;
using testing::bytes_of;
using testing::kBos;
using testing::kEos;
using testing::TemporaryFolder;

constexpr std::int32_t kOff = kIgnoreIndex;

DatasetOptions all_train(std::size_t sequence_length = 64) {
    DatasetOptions options;
    options.sequence_length = sequence_length;
    options.eval_fraction = 0.0;
    return options;
}

Dataset load(const std::string& lines, const DatasetOptions& options) {
    const TemporaryFolder folder;
    return Dataset::load_jsonl(folder.write("rows.jsonl", lines), byte_tokenizer(), options).value();
}

void expect_error(const std::string& lines, const std::string& part) {
    const TemporaryFolder folder;
    const auto result = Dataset::load_jsonl(folder.write("rows.jsonl", lines), byte_tokenizer(), all_train());
    ASSERT_FALSE(result.has_value()) << lines;
    EXPECT_EQ(result.error().code, Errc::InvalidData);
    EXPECT_NE(result.error().message.find(part), std::string::npos)
        << "'" << part << "' is not in: " << result.error().message;
}

// The text that an example's learned targets spell, and the text of its tokens.
std::string learned_text(const Example& example) {
    std::string text;
    for (const auto target : example.targets) {
        if (target != kOff) text += target < 256 ? std::string(1, static_cast<char>(target)) : "$";
    }
    return text;
}

std::string token_text(const Example& example) {
    std::string text;
    for (const auto token : example.tokens)
        text += token < 256 ? std::string(1, static_cast<char>(token)) : "^";
    return text;
}

TEST(Dataset, TextIsLearnedWhole) {
    const auto data = load(R"({"text": "ab"})", all_train());
    ASSERT_EQ(data.train().size(), 1u);
    EXPECT_EQ(data.train()[0], (Example{{kBos, 'a', 'b'}, {'a', 'b', kEos}}));
    EXPECT_TRUE(data.eval().empty());
}

TEST(Dataset, OnlyTheAnswerIsLearned) {
    const auto data = load(R"({"prompt": "ab", "completion": "cd", "id": 7})", all_train());
    ASSERT_EQ(data.train().size(), 1u);
    EXPECT_EQ(data.train()[0], (Example{{kBos, 'a', 'b', 'c', 'd'}, {kOff, kOff, 'c', 'd', kEos}}));
    EXPECT_EQ(data.stats().train_tokens, 5u);
    EXPECT_EQ(data.stats().train_labels, 3u);
}

TEST(Dataset, InstructionsHaveATemplate) {
    const auto data = load(
        "{\"instruction\": \"Add\", \"input\": \"1 2\", \"output\": \"3\"}\n"
        "{\"instruction\": \"Sing\", \"output\": \"la\"}\n",
        all_train(128));
    ASSERT_EQ(data.train().size(), 2u);
    EXPECT_EQ(token_text(data.train()[0]), "^### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n3");
    EXPECT_EQ(learned_text(data.train()[0]), "3$");
    EXPECT_EQ(token_text(data.train()[1]), "^### Instruction:\nSing\n\n### Response:\nla");
    EXPECT_EQ(learned_text(data.train()[1]), "la$");
}

TEST(Dataset, OnlyTheAssistantIsLearned) {
    const auto data =
        load(R"({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"},)"
             R"({"role": "assistant", "content": "A"}, {"role": "user", "content": "V"},)"
             R"({"role": "assistant", "content": "B"}]})",
             all_train(128));
    ASSERT_EQ(data.train().size(), 1u);
    EXPECT_EQ(learned_text(data.train()[0]), "A\n$B\n$");
    EXPECT_EQ(token_text(data.train()[0]), "^system: S\nuser: U\nassistant: A\n^user: V\nassistant: B\n");
}

TEST(Dataset, BosAndEosAreOptions) {
    auto options = all_train();
    options.append_eos = options.prepend_bos = false;
    const auto data = load(R"({"text": "abc"})", options);
    EXPECT_EQ(data.train()[0], (Example{{'a', 'b'}, {'b', 'c'}}));
}

TEST(Dataset, LongTextIsCutAndEachTokenPredictedOnce) {
    const std::string text = "abcdefghijklmnopqrstuvwxyz";
    const auto data = load("{\"text\": \"" + text + "\"}", all_train(10));
    ASSERT_EQ(data.train().size(), 3u);
    std::string learned;
    for (const auto& example : data.train()) {
        EXPECT_LE(example.tokens.size(), 10u);
        learned += learned_text(example);
    }
    EXPECT_EQ(learned, text + "$");
    EXPECT_EQ(data.stats().rows, 1u);
    EXPECT_EQ(data.stats().rows_truncated, 0u);
}

TEST(Dataset, LongPromptsLoseTheirLeft) {
    const auto data = load(
        "{\"prompt\": \"0123456789\", \"completion\": \"abc\"}\n"
        "{\"prompt\": \"0123456789\", \"completion\": \"abcdefghijkl\"}\n",
        all_train(8));
    ASSERT_EQ(data.train().size(), 2u);
    EXPECT_EQ(token_text(data.train()[0]), "^6789abc");
    EXPECT_EQ(learned_text(data.train()[0]), "abc$");
    EXPECT_EQ(token_text(data.train()[1]), "^abcdefg");
    EXPECT_EQ(learned_text(data.train()[1]), "abcdefgh");
    EXPECT_EQ(data.stats().rows_truncated, 2u);
}

TEST(Dataset, BlankLinesAndEmptyAnswersAreSkipped) {
    const auto data = load(
        "\xEF\xBB\xBF\n{\"text\": \"a\"}\r\n   \n{\"text\": \"\"}\n"
        "{\"prompt\": \"x\", \"completion\": \"\"}\n"
        "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}",
        all_train());
    EXPECT_EQ(data.stats().rows, 1u);
    EXPECT_EQ(data.stats().rows_skipped, 3u);
}

TEST(Dataset, BadLinesAreNamed) {
    expect_error("{\"text\": \"a\"}\n\n{\"text\": }\n", "rows.jsonl:3:10: not valid JSON");
    expect_error("{\"text\": \"a\"}\n{\"txt\": \"a\"}\n",
                 "rows.jsonl:2: the keys are txt; a row is {\"text\"}");
    expect_error("[1]\n", "rows.jsonl:1: expected an object, found array");
    expect_error("{\"text\": 5}\n", "rows.jsonl:1: text: expected a string, found number");
    expect_error("{\"text\": \"a\", \"prompt\": \"b\", \"completion\": \"c\"}\n", "more than one form");
    expect_error("{\"prompt\": \"b\"}\n", "the keys are prompt");
    expect_error("{\"messages\": [{\"role\": \"robot\", \"content\": \"x\"}]}\n", "messages[0]: role");
    expect_error("{\"messages\": [{\"role\": \"user\"}]}\n", "messages[0]: the field 'content' is missing");
    expect_error("{\"messages\": {}}\n", "messages: expected an array");
    expect_error("{\"text\": \"\xFF\"}\n", "rows.jsonl:1:");
    expect_error("{\"text\": 1e999}\n", "rows.jsonl:1:");
    expect_error("\n\n", "no row with anything to learn");
    expect_error("", "no row with anything to learn");
}

TEST(Dataset, BadOptionsAreNamed) {
    const TemporaryFolder folder;
    const Path path = folder.write("rows.jsonl", "{\"text\": \"a\"}\n");
    auto options = all_train(0);
    EXPECT_EQ(Dataset::load_jsonl(path, byte_tokenizer(), options).error().code, Errc::InvalidArgument);
    options = all_train();
    options.eval_fraction = 1.0;
    EXPECT_EQ(Dataset::load_jsonl(path, byte_tokenizer(), options).error().code, Errc::InvalidArgument);
    EXPECT_EQ(Dataset::load_jsonl(folder.path() / "none", byte_tokenizer(), all_train()).error().code,
              Errc::NotFound);
}

std::string numbered_rows(int count) {
    std::string lines;
    for (int i = 0; i < count; ++i) {
        lines += "{\"text\": \"row " + std::to_string(i) + " is longer than one window\"}\n";
    }
    return lines;
}

TEST(Dataset, SplitIsDeterministicByRow) {
    auto options = all_train(12);
    options.eval_fraction = 0.25;
    options.seed = 5;
    const auto a = load(numbered_rows(200), options);
    const auto b = load(numbered_rows(200), options);
    EXPECT_TRUE(std::equal(a.train().begin(), a.train().end(), b.train().begin(), b.train().end()));
    EXPECT_TRUE(std::equal(a.eval().begin(), a.eval().end(), b.eval().begin(), b.eval().end()));
    EXPECT_NEAR(
        static_cast<double>(a.eval().size()) / static_cast<double>(a.eval().size() + a.train().size()), 0.25,
        0.1);
    // A row's first window names it, and all its windows are on one side.
    const auto first_windows = [](std::span<const Example> side) {
        return std::count_if(side.begin(), side.end(), [](const Example& e) { return e.tokens[0] == kBos; });
    };
    const auto rows_in_eval = first_windows(a.eval());
    EXPECT_EQ(rows_in_eval + first_windows(a.train()), 200);
    EXPECT_EQ(a.eval().size() % 3, 0u);  // each row makes three windows
    EXPECT_EQ(a.eval().size() / 3, static_cast<std::size_t>(rows_in_eval));

    options.seed = 6;
    const auto c = load(numbered_rows(200), options);
    EXPECT_FALSE(std::equal(a.eval().begin(), a.eval().end(), c.eval().begin(), c.eval().end()));
}

TEST(Dataset, BothSidesHaveARow) {
    auto options = all_train();
    for (const double fraction : {1e-9, 0.999999}) {
        options.eval_fraction = fraction;
        for (std::uint64_t seed = 0; seed < 20; ++seed) {
            options.seed = seed;
            const auto data = load(numbered_rows(2), options);
            EXPECT_EQ(data.train().size(), 1u);
            EXPECT_EQ(data.eval().size(), 1u);
        }
    }
    EXPECT_EQ(load(numbered_rows(1), options).train().size(), 1u);
}

TEST(Dataset, EvalFromAFileOfItsOwn) {
    const TemporaryFolder folder;
    DatasetOptions options;
    options.eval_path = folder.write("eval.jsonl", "{\"text\": \"e\"}\n");
    const auto data =
        Dataset::load_jsonl(folder.write("rows.jsonl", numbered_rows(5)), byte_tokenizer(), options);
    ASSERT_TRUE(data.has_value());
    EXPECT_EQ(data->train().size(), 5u);
    EXPECT_EQ(data->eval().size(), 1u);
    EXPECT_EQ(data->stats().rows, 6u);
}

TEST(Dataset, RowsBeyondTheLimitAreCounted) {
    auto options = all_train();
    options.examples_max = 3;
    const auto data = load(numbered_rows(5), options);
    EXPECT_EQ(data.stats().rows, 3u);
    EXPECT_EQ(data.stats().rows_left_out, 2u);
}

}  // namespace
}  // namespace fedllm::client::data
