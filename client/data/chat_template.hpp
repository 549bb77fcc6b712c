// A model's own chat template: how a conversation becomes the text that the model was tuned on.
//
// Source, first found: chat_template.jinja, then "chat_template" of tokenizer_config.json (text, or a list of
// named ones, of which "default" counts, and "tool_use" where a conversation has tools). Rendered byte for
// byte as transformers 5 does: keys of messages that are null are left out, and reasoning is passed under
// each name templates know it by.
#pragma once

#include <ctime>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "common/jinja/template.hpp"

namespace fedllm::client::data {

enum class GenerationPrompt { No, Yes };  // Yes: ends where the assistant is to go on

struct Conversation {
    std::vector<jinja::Value> messages;
    jinja::Value tools;  // a list, or none

    // {"messages": [{"role", ...}, ...], "tools"?: [...]}; InvalidData names the field.
    static Result<Conversation> parse(const nlohmann::ordered_json& row);
    const std::string& role(std::size_t message) const;
};

// Concurrency: immutable; render from any thread.
class ChatTemplate {
public:
    // Nothing where the folder has no template. An error where it has one that we cannot render.
    static Result<std::optional<ChatTemplate>> load_folder(const Path& folder);
    // `variables`: bos_token and the like.
    static Result<ChatTemplate> parse(std::string_view source, jinja::Variables variables);

    // The first `count` messages. `now`: for templates that write the date.
    Result<jinja::Rendered> render(const Conversation& conversation, std::size_t count,
                                   GenerationPrompt prompt, const std::tm& now) const;
    bool marks_generation(const Conversation& conversation) const {
        return pick(conversation).has_generation();
    }

private:
    const jinja::Template& pick(const Conversation& conversation) const;

    jinja::Template default_;
    std::optional<jinja::Template> tool_use_;
    jinja::Variables variables_;
};

}  // namespace fedllm::client::data
