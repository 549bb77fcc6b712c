#include "client/data/row.hpp"

#include <array>
#include <utility>

#include "client/data/json_fields.hpp"

namespace fedllm::client::data {
namespace {

constexpr std::string_view kForms = R"({"text"}, {"prompt","completion"}, {"instruction","input"?,"output"} )"
                                    R"(or {"messages":[{"role","content"}],"tools"?})";

Error bad_row(const std::string& place, const std::string& what) {
    return make_error(Errc::InvalidData, place + ": " + what);
}

Error as_bad_row(const std::string& place, const Error& error) { return bad_row(place, error.message); }

Row answer_row(std::string prompt, std::string answer) {
    Row row;
    if (answer.empty()) return row;
    row.segments.push_back({std::move(prompt), Learn::No});
    row.segments.push_back({std::move(answer), Learn::Yes, /*ends_turn=*/true});
    return row;
}

Result<Row> text_row(const JsonField& row) {
    FEDLLM_TRY(auto text, row.text("text"));
    Row result;
    result.cut_into_windows = true;
    if (!text.empty()) result.segments.push_back({std::move(text), Learn::Yes, /*ends_turn=*/true});
    return result;
}

Result<Row> completion_row(const JsonField& row) {
    FEDLLM_TRY(auto prompt, row.text("prompt"));
    FEDLLM_TRY(auto completion, row.text("completion"));
    return answer_row(std::move(prompt), std::move(completion));
}

Result<Row> instruction_row(const JsonField& row) {
    FEDLLM_TRY(const auto instruction, row.text("instruction"));
    FEDLLM_TRY(const auto input, row.text_or("input", ""));
    FEDLLM_TRY(auto output, row.text("output"));
    return answer_row(instruction_prompt(instruction, input), std::move(output));
}

Result<Row> messages_row(const JsonField& row) {
    FEDLLM_TRY(const auto messages, row.array("messages"));
    Row result;
    bool answered = false;
    for (std::size_t i = 0; i < messages.value().size(); ++i) {
        const JsonField message = messages.element(i);
        FEDLLM_TRY(const auto role, message.text("role"));
        FEDLLM_TRY(auto content, message.text("content"));
        if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
            return message.error("role: expected system, user, assistant or tool, found '" + role + "'");
        }
        const bool assistant = role == "assistant" && !content.empty();
        answered = answered || assistant;
        result.segments.push_back({role + ": ", Learn::No});
        result.segments.push_back({std::move(content) + "\n", assistant ? Learn::Yes : Learn::No, assistant});
    }
    if (!answered) result.segments.clear();
    return result;
}

// Parsed again: only here the order of keys matters, which templates print.
Result<Row> chat_row(std::string_view line, const Result<ChatTemplate>& chat_template) {
    if (!chat_template) return chat_template.error();
    FEDLLM_TRY(const auto conversation, Conversation::parse(nlohmann::ordered_json::parse(line)));
    Row row;
    FEDLLM_TRY(row.chats, chat_texts(conversation, *chat_template));
    return row;
}

struct Form {
    std::string_view key;
    std::string_view other_key;
    Result<Row> (*parse)(const JsonField&);
};

constexpr std::array kFormTable{
    Form{"text", "text", text_row},
    Form{"prompt", "completion", completion_row},
    Form{"instruction", "output", instruction_row},
    Form{"messages", "messages", messages_row},
};

std::string list_keys(const Json& object) {
    std::string keys;
    for (const auto& [key, value] : object.items()) {
        if (keys.size() > 200) return keys + ", ...";
        keys += (keys.empty() ? "" : ", ") + key;
    }
    return keys.empty() ? "none" : keys;
}

}  // namespace

std::string instruction_prompt(const std::string& instruction, const std::string& input) {
    std::string prompt = "### Instruction:\n" + instruction + "\n\n";
    if (!input.empty()) prompt += "### Input:\n" + input + "\n\n";
    return prompt + "### Response:\n";
}

Result<Row> parse_row(std::string_view line, const std::string& place,
                      const Result<ChatTemplate>* chat_template) {
    FEDLLM_TRY(const Json json, parse_json_line(line, place));
    if (!json.is_object()) {
        return bad_row(place, "expected an object, found " + std::string(json.type_name()) + "; a row is " +
                                  std::string(kForms));
    }
    const Form* form = nullptr;
    for (const auto& candidate : kFormTable) {
        if (!json.contains(candidate.key) || !json.contains(candidate.other_key)) continue;
        if (form) {
            return bad_row(place, "the keys " + list_keys(json) +
                                      " fit more than one form; a row is one of " + std::string(kForms));
        }
        form = &candidate;
    }
    if (!form) {
        return bad_row(place, "the keys are " + list_keys(json) + "; a row is " + std::string(kForms));
    }
    auto row = chat_template && form->parse == messages_row ? chat_row(line, *chat_template)
                                                            : form->parse(JsonField(json, ""));
    if (!row) return as_bad_row(place, row.error());
    return row;
}

}  // namespace fedllm::client::data
