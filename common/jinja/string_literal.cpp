#include "common/jinja/string_literal.hpp"

#include <algorithm>
#include <cstddef>

namespace fedllm::jinja {
namespace {

int digit_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return 99;
}

// A number of `min` to `max` digits from `at`, which moves past it.
Result<char32_t> read_number(std::string_view text, std::size_t& at, std::size_t min, std::size_t max,
                             int base) {
    char32_t value = 0;
    std::size_t count = 0;
    for (; count < max && at < text.size() && digit_value(text[at]) < base; ++count, ++at) {
        value = value * static_cast<char32_t>(base) + static_cast<char32_t>(digit_value(text[at]));
    }
    if (count < min || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) {
        return make_error(Errc::InvalidFile, "the string has a broken \\ escape");
    }
    return value;
}

constexpr std::string_view kSimple = "\\'\"abfnrtv";
constexpr std::string_view kMeaning = "\\'\"\a\b\f\n\r\t\v";

}  // namespace

void append_code_point(std::string& out, char32_t c) {
    const auto put = [&](char32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (c < 0x80) return put(c);
    if (c < 0x800) {
        put(0xC0 | (c >> 6));
    } else {
        if (c < 0x10000) {
            put(0xE0 | (c >> 12));
        } else {
            put(0xF0 | (c >> 18));
            put(0x80 | ((c >> 12) & 0x3F));
        }
        put(0x80 | ((c >> 6) & 0x3F));
    }
    put(0x80 | (c & 0x3F));
}

Result<std::string> unescape_string(std::string_view body) {
    std::string out;
    for (std::size_t at = 0; at < body.size();) {
        if (body[at] != '\\' || at + 1 >= body.size()) {
            out += body[at++];
            continue;
        }
        const char kind = body[at + 1];
        at += 2;
        if (const auto simple = kSimple.find(kind); simple != std::string_view::npos) {
            out += kMeaning[simple];
        } else if (kind == '\n') {
            // A line that goes on.
        } else if (kind == 'x' || kind == 'u' || kind == 'U') {
            const std::size_t digits = kind == 'x' ? 2 : kind == 'u' ? 4 : 8;
            FEDLLM_TRY(const char32_t c, read_number(body, at, digits, digits, 16));
            append_code_point(out, c);
        } else if (kind >= '0' && kind <= '7') {
            --at;
            FEDLLM_TRY(const char32_t c, read_number(body, at, 1, 3, 8));
            append_code_point(out, c);
        } else if (kind == 'N') {
            return make_error(Errc::Unsupported, "\\N{...} in a string is not supported");
        } else {
            out += '\\';
            out += kind;
        }
    }
    return out;
}

}  // namespace fedllm::jinja
