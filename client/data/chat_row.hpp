// From a conversation to texts of which the assistant's turns are learned.
#pragma once

#include <string>
#include <vector>

#include "client/data/chat_template.hpp"
#include "common/base/result.hpp"

namespace fedllm::client::data {

struct ChatText {
    std::string text;                  // special tokens and all
    std::vector<jinja::Span> learned;  // bytes of it, in order, apart
};

// The spans that the template's {% generation %} blocks mark. Where it has none: each assistant turn is what
// the template adds to the messages before it, behind its generation prompt. That makes one text of a
// conversation if every shorter conversation is rendered as the begin of the longer one; else, as with
// templates that drop the reasoning of earlier turns, one text per assistant turn, ending with it: the turn
// is learned behind the text that the model will read when it speaks. A first message answers nothing and is
// not learned. No text where the assistant says nothing.
//
// Templates that write the date get one fixed day: a data set gives the same tokens at every site and on
// every day.
Result<std::vector<ChatText>> chat_texts(const Conversation& conversation, const ChatTemplate& chat_template);

}  // namespace fedllm::client::data
