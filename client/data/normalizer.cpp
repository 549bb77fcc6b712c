#include "client/data/normalizer.hpp"

#include "client/data/unicode.hpp"

namespace fedllm::client::data {

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
    std::string out;
    out.reserve(text.size());
    std::size_t at = 0;
    for (auto found = text.find(pattern); found != std::string_view::npos; found = text.find(pattern, at)) {
        out.append(text, at, found - at);
        out += content;
        at = found + pattern.size();
    }
    out.append(text, at);
    return out;
}

Result<std::string> parse_literal_pattern(const JsonField& owner) {
    FEDLLM_TRY(const auto pattern, owner.object("pattern"));
    if (pattern.has("Regex"))
        return pattern.unsupported("a regular expression; here only {\"String\": ...} is");
    FEDLLM_TRY(auto text, pattern.text("String"));
    if (text.empty()) return pattern.error("an empty string matches everywhere; expected some text");
    return text;
}

Result<Normalizer> Normalizer::parse(const JsonField& field) {
    Normalizer normalizer;
    FEDLLM_TRY_VOID(parse_into(field, 0, normalizer.steps_));
    return normalizer;
}

Result<void> Normalizer::parse_into(const JsonField& field, int depth, std::vector<Step>& steps) {
    if (field.is_null()) return {};
    if (depth > kSequenceDepthMax) return field.error("sequences are nested too deeply");
    FEDLLM_TRY(const auto type, field.text("type"));
    if (type == "Sequence") {
        FEDLLM_TRY(const auto list, field.array("normalizers"));
        for (std::size_t i = 0; i < list.value().size(); ++i) {
            FEDLLM_TRY_VOID(parse_into(list.element(i), depth + 1, steps));
        }
    } else if (type == "Prepend") {
        FEDLLM_TRY(auto prefix, field.text("prepend"));
        steps.push_back(Prepend{std::move(prefix)});
    } else if (type == "Replace") {
        FEDLLM_TRY(auto pattern, parse_literal_pattern(field));
        FEDLLM_TRY(auto content, field.text("content"));
        steps.push_back(Replace{std::move(pattern), std::move(content)});
    } else if (type == "NFC") {
        steps.push_back(Nfc{});
    } else {
        return field.unsupported("the normalizer '" + type +
                                 "'; supported are Sequence, Prepend, Replace and NFC");
    }
    return {};
}

std::string Normalizer::apply(std::string_view text) const {
    std::string out(text);
    for (const auto& step : steps_) {
        if (out.empty()) break;
        if (const auto* prepend = std::get_if<Prepend>(&step)) out.insert(0, prepend->prefix);
        if (const auto* replace = std::get_if<Replace>(&step)) {
            out = replace_all(out, replace->pattern, replace->content);
        }
        if (std::holds_alternative<Nfc>(step)) out = to_nfc(out);
    }
    return out;
}

}  // namespace fedllm::client::data
