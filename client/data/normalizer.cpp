#include "client/data/normalizer.hpp"

#include "client/data/unicode.hpp"

namespace fedllm::client::data {

std::size_t skip_whitespace(std::string_view text, std::size_t at) {
    while (at < text.size()) {
        const CodePoint c = code_point_at(text, at);
        if (!is_whitespace(c.value)) break;
        at += c.length;
    }
    return at;
}

std::size_t skip_whitespace_back(std::string_view text, std::size_t end) {
    while (end > 0) {
        const std::size_t begin = code_point_before(text, end);
        if (!is_whitespace(code_point_at(text, begin).value)) break;
        end = begin;
    }
    return end;
}

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
    } else if (type == "NFD") {
        steps.push_back(Nfd{});
    } else if (type == "Strip") {
        FEDLLM_TRY(const bool left, field.flag_or("strip_left", true));
        FEDLLM_TRY(const bool right, field.flag_or("strip_right", true));
        steps.push_back(Strip{left, right});
    } else {
        return field.unsupported("the normalizer '" + type +
                                 "'; supported are Sequence, Prepend, Replace, NFC, NFD and Strip");
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
        if (std::holds_alternative<Nfd>(step)) out = to_nfd(out);
        if (const auto* strip = std::get_if<Strip>(&step)) {
            if (strip->right) out.resize(skip_whitespace_back(out, out.size()));
            if (strip->left) out.erase(0, skip_whitespace(out, 0));
        }
    }
    return out;
}

}  // namespace fedllm::client::data
