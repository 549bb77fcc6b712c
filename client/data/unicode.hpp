// UTF-8 and the few Unicode facts tokenizers rely on: \p{L}, \p{N}, \w, \s, and canonical (de)composition.
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
std::size_t code_point_before(std::string_view text, std::size_t end);  // where it begins; end > 0
void append_utf8(std::string& out, char32_t code_point);

bool is_valid_utf8(std::string_view text);
// Every maximal ill-formed part becomes U+FFFD (Unicode standard, section 3.9), as Rust's from_utf8_lossy
// does.
std::string to_valid_utf8(std::string_view text);

bool is_letter(char32_t c);      // \p{L}
bool is_number(char32_t c);      // \p{N}
bool is_word(char32_t c);        // \w
bool is_whitespace(char32_t c);  // \s: the White_Space property

// Of valid UTF-8. Marks that came after Unicode 9 stay where they are: the `tokenizers` package has its
// tables.
std::string to_nfd(std::string_view text);  // canonical decomposition
std::string to_nfc(std::string_view text);  // and composition

}  // namespace fedllm::client::data
