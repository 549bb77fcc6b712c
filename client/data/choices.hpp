// Multiple-choice questions from files, as prompts and the continuations among which a model must choose.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/files.hpp"
#include "common/base/result.hpp"

namespace fedllm::client::data {

// What is scored. Text: "Question: ..\nAnswer:" continued by each choice's text (lm-evaluation-harness's ARC
// and mmlu_continuation). Letters: the question, "A. .." lines and "Answer:", continued by a letter (its
// mmlu).
enum class ChoiceStyle { Text, Letters };

struct ChoiceQuestion {
    std::string prompt;
    std::string delimiter;             // between prompt and choice: " ", or nothing
    std::vector<std::string> choices;  // two or more
    std::size_t answer = 0;            // which is right

    bool operator==(const ChoiceQuestion&) const = default;
};

// The forms, told apart by name and keys; other keys are not looked at:
//   {"question", "choices": [..], "answer"}                                    answer: index, letter, or text
//   {"question", "choices": {"text": [..], "label": [..]}, "answerKey"}        as ARC is published
//   {"instruction", "input"?, "answer"} with "Answer format: a/b/c" in it      "the correct answer is a" is
//   scored
//   *.csv                                                                      question, choices, letter; no
//   header
// One row a line, or a JSON array. Errors are InvalidData and name the place: "file:12" (line, or row of an
// array).
// Limits: files up to 1 GiB, 2 to 26 choices.
Result<std::vector<ChoiceQuestion>> load_choices(const Path& path, ChoiceStyle style);

// Does this file look like questions of the first two forms, or CSV? Reads its first row only.
Result<bool> holds_choices(const Path& path);

// RFC 4180: records of fields, which may be quoted and then hold commas, line ends and doubled quotes.
Result<std::vector<std::vector<std::string>>> parse_csv(std::string_view text, const std::string& source);

}  // namespace fedllm::client::data
