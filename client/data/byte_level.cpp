#include "client/data/byte_level.hpp"

#include <array>

#include "client/data/unicode.hpp"

namespace fedllm::client::data {
namespace {

constexpr char32_t kCharactersEnd = 0x100 + 68;

struct Alphabet {
    std::array<char32_t, 256> character{};
    std::array<int, kCharactersEnd> byte{};
};

constexpr bool stands_for_itself(int byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr Alphabet make_alphabet() {
    Alphabet alphabet;
    alphabet.byte.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
        const char32_t c = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
        alphabet.character[static_cast<std::size_t>(byte)] = c;
        alphabet.byte[c] = byte;
    }
    return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

char32_t byte_character(unsigned char byte) { return kAlphabet.character[byte]; }

std::optional<unsigned char> character_byte(char32_t c) {
    if (c >= kCharactersEnd || kAlphabet.byte[c] < 0) return std::nullopt;
    return static_cast<unsigned char>(kAlphabet.byte[c]);
}

std::string to_byte_characters(std::string_view bytes) {
    std::string out;
    for (const char byte : bytes) append_utf8(out, byte_character(static_cast<unsigned char>(byte)));
    return out;
}

std::string from_byte_characters(std::string_view token) {
    std::string out;
    for (std::size_t at = 0; at < token.size();) {
        const CodePoint c = code_point_at(token, at);
        const auto byte = character_byte(c.value);
        if (!byte) return std::string(token);
        out += static_cast<char>(*byte);
        at += c.length;
    }
    return out;
}

}  // namespace fedllm::client::data
