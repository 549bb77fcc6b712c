#include "client/data/pre_tokenizer.hpp"

#include <algorithm>
#include <utility>

#include "client/data/byte_level.hpp"
#include "client/data/normalizer.hpp"
#include "client/data/unicode.hpp"

namespace fedllm::client::data {

Result<PreTokenizer> PreTokenizer::parse(const JsonField& field) {
    PreTokenizer result;
    FEDLLM_TRY_VOID(parse_into(field, 0, result.steps_));
    return result;
}

Result<void> PreTokenizer::parse_into(const JsonField& field, int depth, std::vector<Step>& steps) {
    if (field.is_null()) return {};
    if (depth > kSequenceDepthMax) return field.error("sequences are nested too deeply");
    FEDLLM_TRY(const auto type, field.text("type"));
    if (type == "Sequence") {
        FEDLLM_TRY(const auto list, field.array("pretokenizers"));
        for (std::size_t i = 0; i < list.value().size(); ++i) {
            FEDLLM_TRY_VOID(parse_into(list.element(i), depth + 1, steps));
        }
    } else if (type == "ByteLevel") {
        FEDLLM_TRY(const bool prefix, field.flag_or("add_prefix_space", true));
        FEDLLM_TRY(const bool use_regex, field.flag_or("use_regex", true));
        steps.push_back(ByteLevel{prefix, use_regex});
    } else if (type == "Digits") {
        FEDLLM_TRY(const bool individual, field.flag_or("individual_digits", false));
        steps.push_back(Digits{individual});
    } else if (type == "Split") {
        FEDLLM_TRY(auto step, parse_split(field));
        steps.push_back(std::move(step));
    } else if (type == "Metaspace") {
        FEDLLM_TRY(auto step, parse_metaspace(field));
        steps.push_back(std::move(step));
    } else {
        return field.unsupported("the pre-tokenizer '" + type +
                                 "'; supported are Sequence, ByteLevel, Digits, Split and Metaspace");
    }
    return {};
}

Result<PreTokenizer::Step> PreTokenizer::parse_split(const JsonField& field) {
    FEDLLM_TRY(const auto behavior, field.text("behavior"));
    if (behavior != "Isolated")
        return field.unsupported("behavior '" + behavior + "'; supported is Isolated");
    // Isolated keeps both the matches and what lies between them, and the patterns leave nothing between; so
    // `invert` makes no difference.
    FEDLLM_TRY(const auto pattern, field.object("pattern"));
    if (!pattern.has("Regex")) return pattern.unsupported("only a known {\"Regex\": ...} is supported here");
    FEDLLM_TRY(const auto regex, pattern.text("Regex"));
    const auto known = find_split_pattern(regex);
    if (!known) {
        return pattern.unsupported("the regular expression " + regex + "; supported are those of " +
                                   list_split_patterns());
    }
    return Step(Split{*known});
}

Result<PreTokenizer::Step> PreTokenizer::parse_metaspace(const JsonField& field) {
    FEDLLM_TRY(auto replacement, field.text("replacement"));
    if (replacement.empty() || code_point_at(replacement, 0).length != replacement.size()) {
        return field.error("replacement: expected one character");
    }
    FEDLLM_TRY(const bool old_prefix,
               field.flag_or("add_prefix_space", true));  // before "prepend_scheme" came
    FEDLLM_TRY(const auto scheme, field.text_or("prepend_scheme", old_prefix ? "always" : "never"));
    FEDLLM_TRY(const bool split, field.flag_or("split", true));
    using Prefix = Metaspace::Prefix;
    if (scheme == "always") return Step(Metaspace{std::move(replacement), Prefix::Always, split});
    if (scheme == "first") return Step(Metaspace{std::move(replacement), Prefix::First, split});
    if (scheme == "never") return Step(Metaspace{std::move(replacement), Prefix::Never, split});
    return field.error("prepend_scheme: expected always, first or never, found '" + scheme + "'");
}

std::vector<std::string> PreTokenizer::apply(std::string piece, bool at_start) const {
    Words words;
    words.push_back(std::move(piece));
    for (const auto& step : steps_) {
        Words next;
        for (std::size_t i = 0; i < words.size(); ++i) {
            std::visit([&](const auto& kind) { apply(kind, std::move(words[i]), at_start && i == 0, next); },
                       step);
        }
        words = std::move(next);
    }
    return words;
}

namespace {

void split_by(SplitPattern pattern, std::string_view word, std::vector<std::string>& out) {
    for (std::size_t at = 0; at < word.size();) {
        const std::size_t length = match_length(pattern, word, at);
        out.emplace_back(word.substr(at, length));
        at += length;
    }
}

}  // namespace

void PreTokenizer::apply(const ByteLevel& step, std::string word, bool, Words& out) {
    if (step.add_prefix_space && !word.starts_with(' ')) word.insert(word.begin(), ' ');
    const std::size_t first = out.size();
    if (step.use_regex) {
        split_by(SplitPattern::Gpt2, word, out);
    } else {
        out.push_back(std::move(word));
    }
    for (std::size_t i = first; i < out.size(); ++i) out[i] = to_byte_characters(out[i]);
}

void PreTokenizer::apply(const Digits& step, std::string word, bool, Words& out) {
    bool in_number = false;
    std::size_t begin = 0;
    for (std::size_t at = 0; at < word.size();) {
        const CodePoint c = code_point_at(word, at);
        const bool number = is_number(c.value);
        const bool cut = number != in_number || (number && step.individual);
        if (cut && at > begin) {
            out.push_back(word.substr(begin, at - begin));
            begin = at;
        }
        in_number = number;
        at += c.length;
    }
    if (begin < word.size()) out.push_back(word.substr(begin));
}

void PreTokenizer::apply(const Split& step, std::string word, bool, Words& out) {
    split_by(step.pattern, word, out);
}

void PreTokenizer::apply(const Metaspace& step, std::string word, bool at_start, Words& out) {
    using Prefix = Metaspace::Prefix;
    std::string text = replace_all(word, " ", step.replacement);
    const bool wanted = step.prefix == Prefix::Always || (step.prefix == Prefix::First && at_start);
    if (wanted && !text.starts_with(step.replacement)) text.insert(0, step.replacement);
    if (!step.split) {
        out.push_back(std::move(text));
        return;
    }
    // Each word begins with the replacement character.
    for (std::size_t begin = 0; begin < text.size();) {
        std::size_t end = text.find(step.replacement, begin + step.replacement.size());
        if (end == std::string::npos) end = text.size();
        // Text before the first replacement is a word of its own.
        if (begin == 0 && !text.starts_with(step.replacement))
            end = std::min(text.find(step.replacement), text.size());
        out.push_back(text.substr(begin, end - begin));
        begin = end;
    }
}

}  // namespace fedllm::client::data
