#include "common/jinja/lexer.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "common/jinja/string_literal.hpp"
#include "common/jinja/value.hpp"

namespace fedllm::jinja {
namespace {

// Jinja reads every line ending as \n and drops one at the end of the file.
std::string normalize_newlines(std::string_view source) {
    std::string out;
    out.reserve(source.size());
    for (std::size_t i = 0; i < source.size(); ++i) {
        if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
        out += source[i] == '\r' ? '\n' : source[i];
    }
    if (out.ends_with('\n')) out.pop_back();
    return out;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           static_cast<unsigned char>(c) >= 0x80;
}
bool is_name_part(char c) { return is_name_start(c) || is_digit(c); }

// Longer spellings first.
constexpr std::array<std::string_view, 27> kOperators{"//", "**", "==", "!=", ">=", "<=", "+", "-", "*",
                                                      "/",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                      ">",  "<",  "=",  ".",  ":",  "|",  ",", ";", "!"};

class Lexer {
public:
    explicit Lexer(std::string_view source) : source_(source) {}

    Result<std::vector<Token>> run() {
        while (at_ < source_.size()) FEDLLM_TRY_VOID(next_part());
        add(Token::Kind::End, "");
        return std::move(tokens_);
    }

private:
    using Kind = Token::Kind;

    std::string_view rest() const { return source_.substr(at_); }
    bool sees(std::string_view text) const { return rest().starts_with(text); }
    void add(Kind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }
    Error error(const std::string& what) const { return template_error(Errc::InvalidFile, line_, what); }

    void advance(std::size_t count) {
        const auto passed = source_.substr(at_, count);
        line_ += static_cast<int>(std::count(passed.begin(), passed.end(), '\n'));
        at_ += count;
    }
    void skip_space() { advance(rest().size() - strip_left(rest()).size()); }

    // Plain text up to the next tag, and that tag.
    Result<void> next_part() {
        std::size_t begin = at_;
        do {
            begin = source_.find('{', begin);
            if (begin == std::string_view::npos || begin + 1 >= source_.size()) {
                emit_data(rest());
                advance(rest().size());
                return {};
            }
        } while (std::string_view("{%#").find(source_[begin + 1]) == std::string_view::npos && ++begin);
        const char kind = source_[begin + 1];
        const char sign = begin + 2 < source_.size() ? source_[begin + 2] : '\0';
        const auto text = source_.substr(at_, begin - at_);
        emit_data(sign == '-' ? strip_right(text) : sign != '+' && kind != '{' ? without_indent(text) : text);
        advance(begin - at_ + (sign == '-' || sign == '+' ? 3 : 2));
        line_starts_ = false;
        if (kind == '#') return comment();
        if (kind == '%' && is_raw_tag()) return raw();
        return kind == '{' ? tag(Kind::OutputBegin, "}}") : tag(Kind::BlockBegin, "%}");
    }

    void emit_data(std::string_view text) {
        if (!text.empty()) add(Kind::Data, std::string(text));
    }

    // lstrip_blocks: nothing but whitespace between the line's begin and a block or comment is not printed.
    std::string_view without_indent(std::string_view text) const {
        const std::size_t newline = text.rfind('\n');
        const std::size_t begin = newline == std::string_view::npos ? 0 : newline + 1;
        if (begin == 0 && !line_starts_) return text;
        return strip_left(text.substr(begin)).empty() ? text.substr(0, begin) : text;
    }

    // Past the end of a tag, "-}" with all whitespace after it, and trim_blocks: one newline after a block.
    void finish(std::string_view end, char sign) {
        advance(end.size() + (sign == 0 ? 0 : 1));
        line_starts_ = false;
        const std::size_t before = at_;
        if (sign == '-')
            skip_space();
        else if (sign == 0 && end != "}}" && sees("\n"))
            advance(1);
        line_starts_ = at_ > before && source_[at_ - 1] == '\n';
    }

    // The sign where `end` follows, perhaps after one: '-', '+', 0 for none; nothing where it does not.
    std::optional<char> sign_of_end(std::string_view end) const {
        if (sees(end)) return '\0';
        if (at_ >= source_.size() || !source_.substr(at_ + 1).starts_with(end)) return std::nullopt;
        const char sign = source_[at_];
        return sign == '-' || (sign == '+' && end != "}}") ? std::optional(sign) : std::nullopt;
    }

    Result<void> comment() {
        const std::size_t end = source_.find("#}", at_);
        if (end == std::string_view::npos) return error("the comment has no end '#}'");
        const char last = end > at_ ? source_[end - 1] : '\0';
        const bool signed_end = last == '-' || last == '+';
        advance(end - at_ - (signed_end ? 1 : 0));
        finish("#}", signed_end ? last : '\0');
        return {};
    }

    static bool starts_raw(std::string_view text, std::string_view word) {
        text = strip_left(text);
        if (!text.starts_with(word)) return false;
        text = strip_left(text.substr(word.size()));
        return text.starts_with("%}") || text.starts_with("-%}") || text.starts_with("+%}");
    }
    bool is_raw_tag() const { return starts_raw(rest(), "raw"); }

    Result<void> raw() {
        const int line = line_;
        advance(source_.find("%}", at_) - at_);
        const bool strip = source_[at_ - 1] == '-';
        advance(2);
        if (strip) skip_space();
        for (std::size_t end = source_.find("{%", at_); end != std::string_view::npos;
             end = source_.find("{%", end + 1)) {
            const char sign = end + 2 < source_.size() ? source_[end + 2] : '\0';
            const std::size_t word = end + (sign == '-' || sign == '+' ? 3 : 2);
            if (!starts_raw(source_.substr(word), "endraw")) continue;
            const auto text = source_.substr(at_, end - at_);
            emit_data(sign == '-' ? strip_right(text) : sign != '+' ? without_indent(text) : text);
            const std::size_t close = source_.find("%}", word);
            const char last = source_[close - 1];
            const bool signed_end = last == '-' || last == '+';
            advance(close - at_ - (signed_end ? 1 : 0));
            finish("%}", signed_end ? last : '\0');
            return {};
        }
        return template_error(Errc::InvalidFile, line, "the block 'raw' has no endraw");
    }

    Result<void> tag(Kind begin, std::string_view end) {
        const int line = line_;
        add(begin, std::string(begin == Kind::OutputBegin ? "{{" : "{%"));
        std::size_t open = 0;  // brackets: within them "}}" does not end the tag
        while (true) {
            skip_space();
            if (at_ >= source_.size()) {
                return template_error(Errc::InvalidFile, line,
                                      "the tag has no end '" + std::string(end) + "'");
            }
            if (const auto sign = sign_of_end(end); sign && open == 0) {
                add(begin == Kind::OutputBegin ? Kind::OutputEnd : Kind::BlockEnd, std::string(end));
                finish(end, *sign);
                return {};
            }
            FEDLLM_TRY_VOID(next_token(open));
        }
    }

    Result<void> next_token(std::size_t& open) {
        const char c = source_[at_];
        if (c == '"' || c == '\'') return string_token(c);
        if (is_digit(c)) return number_token();
        if (is_name_start(c)) {
            std::size_t end = at_;
            while (end < source_.size() && is_name_part(source_[end])) ++end;
            add(Kind::Name, std::string(source_.substr(at_, end - at_)));
            advance(end - at_);
            return {};
        }
        const auto found =
            std::find_if(kOperators.begin(), kOperators.end(), [&](auto text) { return sees(text); });
        if (found == kOperators.end()) return error("unexpected character '" + std::string(1, c) + "'");
        if (c == '(' || c == '[' || c == '{') ++open;
        if (c == ')' || c == ']' || c == '}') {
            if (open == 0) return error("unexpected '" + std::string(1, c) + "'");
            --open;
        }
        add(Kind::Operator, std::string(*found));
        advance(found->size());
        return {};
    }

    Result<void> string_token(char quote) {
        std::size_t end = at_ + 1;
        while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
        if (end >= source_.size()) return error("the string has no closing quote");
        auto text = unescape_string(source_.substr(at_ + 1, end - at_ - 1));
        if (!text) return error(text.error().message);
        add(Kind::String, std::move(*text));
        advance(end + 1 - at_);
        return {};
    }

    Result<void> number_token() {
        std::size_t end = at_;
        const auto digits = [&] {
            while (end < source_.size() && (is_digit(source_[end]) || source_[end] == '_')) ++end;
        };
        const auto digit_at = [&](std::size_t i) { return i < source_.size() && is_digit(source_[i]); };
        digits();
        bool real = false;
        if (end < source_.size() && source_[end] == '.' && digit_at(end + 1) && source_[at_ - 1] != '.') {
            real = true;
            ++end;
            digits();
        }
        if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
            const bool sign =
                end + 1 < source_.size() && (source_[end + 1] == '+' || source_[end + 1] == '-');
            if (digit_at(end + (sign ? 2 : 1))) {
                real = true;
                end += sign ? 2 : 1;
                digits();
            }
        }
        if (end < source_.size() && is_name_start(source_[end])) {
            return error("unexpected number; supported are decimal ones");
        }
        std::string text(source_.substr(at_, end - at_));
        std::erase(text, '_');
        add(real ? Kind::Real : Kind::Integer, std::move(text));
        advance(end - at_);
        return {};
    }

    std::string_view source_;
    std::size_t at_ = 0;
    int line_ = 1;
    bool line_starts_ = true;  // what comes next is at the begin of a line
    std::vector<Token> tokens_;
};

}  // namespace

Error template_error(Errc code, int line, const std::string& what) {
    return make_error(code, "line " + std::to_string(line) + ": " + what);
}

Result<std::vector<Token>> tokenize(std::string_view source) {
    const std::string text = normalize_newlines(source);
    return Lexer(text).run();
}

}  // namespace fedllm::jinja
