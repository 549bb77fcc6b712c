// UTF-8 and the few Unicode facts tokenizers rely on: \p{L}, \p{N}, \s and canonical composition (NFC).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fedllm::client::data {

struct CodePoint {
    char32_t value = 0;
    std::size_t length = 0;  // bytes
};

// The code point at `at`; the text must be valid UTF-8 and `at` one of its boundaries.
CodePoint code_point_at(std::string_view text, std::size_t at);
void append_utf8(std::string& out, char32_t code_point);

bool is_valid_utf8(std::string_view text);
// Every maximal ill-formed part becomes U+FFFD (Unicode standard, section 3.9), as Rust's from_utf8_lossy
// does.
std::string to_valid_utf8(std::string_view text);

bool is_letter(char32_t c);      // \p{L}
bool is_number(char32_t c);      // \p{N}
bool is_whitespace(char32_t c);  // \s: the White_Space property

std::string to_nfc(std::string_view text);  // canonical composition of valid UTF-8

}  // namespace fedllm::client::data
