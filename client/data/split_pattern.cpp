#include "client/data/split_pattern.hpp"

#include <array>

#include "client/data/unicode.hpp"

namespace fedllm::client::data {
namespace {

struct Spelling {
    std::string_view regex;
    std::string_view name;
    SplitPattern pattern;
};

constexpr std::array kSpellings{
    Spelling{R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", "GPT-2",
             SplitPattern::Gpt2},
    Spelling{R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
             "GPT-2 (short form)", SplitPattern::Gpt2},
    Spelling{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
             R"(\s*[\r\n]+|\s+(?!\S)|\s+)",
             "Llama-3", SplitPattern::Llama3},
    Spelling{R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
             R"(\s*[\r\n]+|\s+(?!\S)|\s+)",
             "Qwen2", SplitPattern::Qwen2},
};

bool is_newline(char32_t c) { return c == '\r' || c == '\n'; }
bool is_other(char32_t c) { return !is_whitespace(c) && !is_letter(c) && !is_number(c); }

// The end of the run of at most `limit` code points from `at` for which `accept` holds.
template <class Accept>
std::size_t run_end(std::string_view text, std::size_t at, Accept accept,
                    std::size_t limit = ~std::size_t{0}) {
    while (at < text.size() && limit-- > 0) {
        const CodePoint c = code_point_at(text, at);
        if (!accept(c.value)) break;
        at += c.length;
    }
    return at;
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// 's|'t|'re|'ve|'m|'ll|'d at `at`, or 0.
std::size_t contraction(std::string_view text, std::size_t at, bool any_case) {
    if (text[at] != '\'') return 0;
    const auto letter = [&](std::size_t i) {
        const char c = at + i < text.size() ? text[at + i] : '\0';
        return any_case ? lower(c) : c;
    };
    const char a = letter(1);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    const char b = letter(2);
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    // Case folding makes the long s (U+017F, C5 BF) an s.
    if (any_case && text.substr(at + 1, 2) == "\xC5\xBF") return 3;
    return 0;
}

// \s+(?!\S)|\s+ on the whitespace run at `at`: the run, less its last character where text follows.
std::size_t whitespace(std::string_view text, std::size_t at) {
    std::size_t end = at;
    std::size_t last = at;
    while (end < text.size()) {
        const CodePoint c = code_point_at(text, end);
        if (!is_whitespace(c.value)) break;
        last = end;
        end += c.length;
    }
    return (end == text.size() || last == at ? end : last) - at;
}

std::size_t match_gpt2(std::string_view text, std::size_t at) {
    if (const std::size_t length = contraction(text, at, /*any_case=*/false)) return length;
    const std::size_t body = at + (text[at] == ' ' ? 1 : 0);
    if (const auto end = run_end(text, body, is_letter); end > body) return end - at;
    if (const auto end = run_end(text, body, is_number); end > body) return end - at;
    if (const auto end = run_end(text, body, is_other); end > body) return end - at;
    return whitespace(text, at);
}

std::size_t match_llama3(std::string_view text, std::size_t at, std::size_t digits) {
    if (const std::size_t length = contraction(text, at, /*any_case=*/true)) return length;
    const CodePoint c = code_point_at(text, at);
    if (is_letter(c.value)) return run_end(text, at, is_letter) - at;
    if (is_number(c.value)) return run_end(text, at, is_number, digits) - at;
    if (!is_newline(c.value)) {
        const std::size_t after = at + c.length;
        if (const auto end = run_end(text, after, is_letter); end > after) return end - at;
    }
    const std::size_t body = at + (c.value == ' ' ? 1 : 0);
    if (const auto end = run_end(text, body, is_other); end > body)
        return run_end(text, end, is_newline) - at;
    // \s*[\r\n]+ : through the last newline of the whitespace run.
    const std::size_t end = run_end(text, at, is_whitespace);
    if (const auto newline = text.substr(at, end - at).find_last_of("\r\n");
        newline != std::string_view::npos) {
        return newline + 1;
    }
    return whitespace(text, at);
}

}  // namespace

std::optional<SplitPattern> find_split_pattern(std::string_view regex) {
    for (const auto& spelling : kSpellings) {
        if (spelling.regex == regex) return spelling.pattern;
    }
    return std::nullopt;
}

std::string list_split_patterns() {
    std::string list;
    for (const auto& spelling : kSpellings) list += (list.empty() ? "" : ", ") + std::string(spelling.name);
    return list;
}

std::size_t match_length(SplitPattern pattern, std::string_view text, std::size_t at) {
    switch (pattern) {
        case SplitPattern::Gpt2: return match_gpt2(text, at);
        case SplitPattern::Llama3: return match_llama3(text, at, 3);
        case SplitPattern::Qwen2: break;
    }
    return match_llama3(text, at, 1);
}

}  // namespace fedllm::client::data
