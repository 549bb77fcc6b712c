// The byte alphabet of GPT-2: each byte has a printable character, so that vocabularies are readable text.
// The 188 printable bytes of Latin-1 stand for themselves; the other 68 are U+0100 onwards, in order.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace fedllm::client::data {

char32_t byte_character(unsigned char byte);
std::optional<unsigned char> character_byte(char32_t c);

std::string to_byte_characters(std::string_view bytes);
// The bytes of a token; a token with a character outside the alphabet (an added one) is taken as it is.
std::string from_byte_characters(std::string_view token);

}  // namespace fedllm::client::data
