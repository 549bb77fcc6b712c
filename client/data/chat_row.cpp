#include "client/data/chat_row.hpp"

#include <algorithm>
#include <optional>
#include <utility>

namespace fedllm::client::data {
namespace {

std::tm fixed_day() {  // 26 July 2024, a Friday: what Llama 3.2's template falls back to
    std::tm day{};
    day.tm_year = 124;
    day.tm_mon = 6;
    day.tm_mday = 26;
    day.tm_wday = 5;
    day.tm_yday = 207;
    return day;
}

class Turns {
public:
    Turns(const Conversation& conversation, const ChatTemplate& chat_template)
        : conversation_(conversation), template_(chat_template) {}

    Result<jinja::Rendered> render(std::size_t count, GenerationPrompt prompt) const {
        return template_.render(conversation_, count, prompt, day_);
    }

    // The bytes that message `index`, the last in `text`, adds to what a model reads before it speaks.
    Result<jinja::Span> added(std::size_t index, const std::string& text) const {
        FEDLLM_TRY(const auto before, render(index, GenerationPrompt::Yes));
        if (text.starts_with(before.text)) return jinja::Span{before.text.size(), text.size()};
        // Some prompts begin an answer (with <think>) in a way that finished turns do not keep.
        FEDLLM_TRY(const auto plain, render(index, GenerationPrompt::No));
        const auto same = std::mismatch(before.text.begin(), before.text.end(), text.begin(), text.end());
        auto begin = static_cast<std::size_t>(same.second - text.begin());
        while (begin < text.size() && (static_cast<unsigned char>(text[begin]) & 0xC0u) == 0x80u) --begin;
        if (text.starts_with(plain.text) && begin >= plain.text.size())
            return jinja::Span{begin, text.size()};
        return make_error(
            Errc::InvalidData,
            "messages[" + std::to_string(index) +
                "]: the chat template writes earlier messages differently once the assistant has "
                "answered, so that it cannot be told what the assistant says; a template with "
                "{% generation %} blocks tells");
    }

    // All turns in one text, or nothing where some shorter conversation is not its begin.
    Result<std::optional<ChatText>> together(const std::vector<std::size_t>& assistants,
                                             const std::string& whole) const {
        ChatText result;
        for (const std::size_t index : assistants) {
            std::string text = whole;
            if (index + 1 < conversation_.messages.size()) {
                auto shorter = render(index + 1, GenerationPrompt::No);
                if (!shorter || !whole.starts_with(shorter->text)) return std::optional<ChatText>();
                text = std::move(shorter->text);
            }
            const auto span = added(index, text);
            if (!span) return std::optional<ChatText>();
            if (span->begin < span->end) result.learned.push_back(*span);
        }
        result.text = whole;
        return std::optional(std::move(result));
    }

    Result<std::vector<ChatText>> apart(const std::vector<std::size_t>& assistants) const {
        std::vector<ChatText> texts;
        for (const std::size_t index : assistants) {
            FEDLLM_TRY(auto rendered, render(index + 1, GenerationPrompt::No));
            FEDLLM_TRY(const auto span, added(index, rendered.text));
            if (span.begin < span.end) texts.push_back({std::move(rendered.text), {span}});
        }
        return texts;
    }

private:
    const Conversation& conversation_;
    const ChatTemplate& template_;
    const std::tm day_ = fixed_day();
};

}  // namespace

Result<std::vector<ChatText>> chat_texts(const Conversation& conversation,
                                         const ChatTemplate& chat_template) {
    std::vector<std::size_t> assistants;
    for (std::size_t i = 1; i < conversation.messages.size(); ++i) {  // the first answers nothing
        if (conversation.role(i) == "assistant") assistants.push_back(i);
    }
    const bool marked = chat_template.marks_generation(conversation);
    if (assistants.empty() && !marked) return std::vector<ChatText>();
    const Turns turns(conversation, chat_template);
    FEDLLM_TRY(auto whole, turns.render(conversation.messages.size(), GenerationPrompt::No));
    std::vector<ChatText> texts;
    if (marked) {
        texts.push_back({std::move(whole.text), std::move(whole.generated)});
        return texts;
    }
    FEDLLM_TRY(auto together, turns.together(assistants, whole.text));
    if (!together) return turns.apart(assistants);
    texts.push_back(std::move(*together));
    return texts;
}

}  // namespace fedllm::client::data
