// One line of a JSONL data set, whatever its form, as stretches of text that are to be learned or only to be
// read.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "client/data/chat_row.hpp"
#include "common/base/result.hpp"

namespace fedllm::client::data {

enum class Learn { No, Yes };

struct Segment {
    std::string text;
    Learn learn = Learn::No;
    bool ends_turn = false;  // an end-of-text token follows, and is learned with it
};

struct Row {
    std::vector<Segment> segments;
    std::vector<ChatText> chats;    // instead of segments: texts to tokenize whole
    bool cut_into_windows = false;  // too long: several examples, rather than one that is shortened
};

// The forms, told apart by their keys; other keys (an id, a category) are not looked at:
//   {"text"}                                 all of it is learned
//   {"prompt", "completion"}                 the completion is learned
//   {"instruction", "input"?, "output"}      the output is learned, after "### Instruction:" and "### Input:"
//   blocks
//   {"messages": [{"role", "content"}, ..], "tools"?}  the model's chat template, or without one
//   "role: content" lines; what the assistant says is learned
// `place` is "file:line". A row with nothing to learn (an empty text or answer) has no segments or chats.
// `chat_template`: null where the model has none; an error in it is the row's, if the row needs it.
Result<Row> parse_row(std::string_view line, const std::string& place,
                      const Result<ChatTemplate>* chat_template = nullptr);

// What a model reads before the output of the third form; `input` may be empty.
std::string instruction_prompt(const std::string& instruction, const std::string& input);

}  // namespace fedllm::client::data
