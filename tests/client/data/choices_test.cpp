#include "client/data/choices.hpp"

#include <filesystem>

#include "tests/client/data/support.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::client::data {
namespace {

class Choices : public ::testing::Test {
protected:
    Result<std::vector<ChoiceQuestion>> load(const std::string& name, std::string_view text,
                                             ChoiceStyle style = ChoiceStyle::Text) {
        const Path path = folder.path() / name;
        write_file_atomically(path, text).value();
        return load_choices(path, style);
    }
    std::string refused(std::string_view line) {
        const auto made = load("a.jsonl", line);
        EXPECT_FALSE(made) << line;
        if (made) return "";
        EXPECT_EQ(made.error().code, Errc::InvalidData) << line;
        EXPECT_NE(made.error().message.find("a.jsonl:1"), std::string::npos) << made.error().message;
        return made.error().message;
    }

    test::TempDir folder;
};

TEST_F(Choices, AnswersAreIndicesLettersOrTexts) {
    for (const char* answer : {"1", "\"B\"", "\"blue\""}) {
        const auto made = load("a.jsonl", R"({"question": " Sky? ", "choices": ["red", "blue"], "answer": )" +
                                              std::string(answer) + "}\n\n")
                              .value();
        ASSERT_EQ(made.size(), 1U);
        EXPECT_EQ(made[0], (ChoiceQuestion{"Question: Sky?\nAnswer:", " ", {"red", "blue"}, 1}));
    }
    const auto letters = load("a.jsonl", R"({"question": "Sky?", "choices": ["red", "blue"], "answer": 1})",
                              ChoiceStyle::Letters);
    EXPECT_EQ(letters.value()[0], (ChoiceQuestion{"Sky?\nA. red\nB. blue\nAnswer:", " ", {"A", "B"}, 1}));
    const auto arc = load(
        "a.jsonl",
        R"({"question": "Sky?", "choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": "2"})");
    EXPECT_EQ(arc.value()[0].answer, 1U);
}

TEST_F(Choices, AJsonArrayOfInstructionsNamesItsChoices) {
    const auto made =
        load("a.json", R"([{"instruction": "Which? Answer1: x Answer2: y\n\nAnswer format: answer1/answer2",
        "input": "", "output": "the correct answer is answer2", "answer": "answer2"}])")
            .value();
    ASSERT_EQ(made.size(), 1U);
    EXPECT_EQ(made[0].choices,
              (std::vector<std::string>{"the correct answer is answer1", "the correct answer is answer2"}));
    EXPECT_EQ(made[0].answer, 1U);
    EXPECT_TRUE(made[0].prompt.ends_with("answer1/answer2\n\n### Response:\n")) << made[0].prompt;
}

TEST_F(Choices, CsvIsMmlus) {
    const auto made =
        load("a.csv", "Q one?,a,b,c,d,D\r\n\"Q, \"\"two\"\"\nlines?\",1,\"2,5\",3,4,A", ChoiceStyle::Text)
            .value();
    ASSERT_EQ(made.size(), 2U);
    EXPECT_EQ(made[0].choices, (std::vector<std::string>{"a", "b", "c", "d"}));
    EXPECT_EQ(made[0].answer, 3U);
    EXPECT_EQ(made[1].prompt, "Question: Q, \"two\"\nlines?\nAnswer:");
    EXPECT_EQ(made[1].choices[1], "2,5");
    EXPECT_FALSE(load("a.csv", "Q,a,b,c,d,E\n"));
    EXPECT_FALSE(load("a.csv", "Q,a,b\n"));
    EXPECT_FALSE(load("a.csv", "\"Q,a,b,A\n"));
    EXPECT_FALSE(load("a.csv", ""));
}

TEST_F(Choices, BadRowsAreRefusedByPlace) {
    EXPECT_NE(refused(R"({"question": "a", "choices": ["x", "y"], "answer": 2})").find("below 2"),
              std::string::npos);
    refused(R"({"question": "a", "choices": ["x", "y"], "answer": "C"})");
    refused(R"({"question": "a", "choices": ["x", "y"]})");
    refused(R"({"question": "a", "choices": ["x"], "answer": 0})");
    refused(R"({"question": "a", "choices": ["x", ""], "answer": 0})");
    refused(R"({"question": "a", "choices": ["x", 3], "answer": 0})");
    refused(R"({"question": 1, "choices": ["x", "y"], "answer": 0})");
    refused(R"({"question": "a", "choices": {"text": ["x", "y"], "label": ["A"]}, "answerKey": "A"})");
    refused(R"({"instruction": "no format", "answer": "x"})");
    refused(R"({"instruction": "Answer format: a/b", "answer": "c"})");
    refused(R"({"text": "a"})");
    refused(R"({"question")");
}

TEST_F(Choices, QuestionsAreToldFromTexts) {
    const auto holds = [&](const std::string& name, std::string_view text) {
        write_file_atomically(folder.path() / name, text).value();
        return holds_choices(folder.path() / name).value();
    };
    EXPECT_TRUE(holds("a.csv", "x"));
    EXPECT_TRUE(holds("a.jsonl", "\n{\"question\": \"a\", \"choices\": []}\n"));
    EXPECT_FALSE(holds("a.jsonl", "{\"text\": \"a\"}\n{\"question\": \"a\", \"choices\": []}\n"));
    EXPECT_FALSE(holds("a.jsonl", "{\"text\": "));
    EXPECT_FALSE(holds("a.jsonl", ""));
    EXPECT_FALSE(holds_choices(folder.path() / "none.jsonl"));
}

TEST_F(Choices, TheSharedQuestionsLoad) {
    const Path data = testing::assets() / "data";
    if (!std::filesystem::exists(data)) GTEST_SKIP() << "no " << data << ": set FEDLLM_ASSETS";
    std::size_t files = 0;
    for (const char* part : {"dev", "val"}) {
        for (const auto& entry : std::filesystem::directory_iterator(data / "mmlu" / part)) {
            const auto questions = load_choices(entry.path(), ChoiceStyle::Letters);
            ASSERT_TRUE(questions) << questions.error().message;
            for (const auto& question : *questions) EXPECT_EQ(question.choices.size(), 4U) << entry.path();
            ++files;
        }
    }
    EXPECT_EQ(files, 114U);
    EXPECT_EQ(load_choices(data / "multiple-choice/ARC-Easy_test.json", ChoiceStyle::Text).value().size(),
              2376U);
    EXPECT_EQ(load_choices(data / "multiple-choice/piqa_test.json", ChoiceStyle::Text).value().size(), 1838U);
}

}  // namespace
}  // namespace fedllm::client::data
