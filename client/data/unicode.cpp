#include "client/data/unicode.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <utility>

namespace fedllm::client::data {
namespace {

struct Range {
    char32_t first;
    char32_t last;
};

struct CombiningRange {
    char32_t first;
    char32_t last;
    std::uint8_t order;
};

struct Decomposition {
    char32_t code_point;
    char32_t first;
    char32_t second;  // 0: a singleton
};

struct Composition {
    char32_t first;
    char32_t second;
    char32_t code_point;
};

#include "client/data/unicode_tables.inc"

template <class Table>
auto find_range(const Table& table, char32_t c) {
    auto found = std::upper_bound(std::begin(table), std::end(table), c,
                                  [](char32_t value, const auto& range) { return value < range.first; });
    if (found == std::begin(table)) return std::end(table);
    --found;
    return c <= found->last ? found : std::end(table);
}

std::uint8_t combining_order(char32_t c) {
    const auto found = find_range(kCombining, c);
    return found == std::end(kCombining) ? 0 : found->order;
}

bool is_continuation(unsigned char byte) { return (byte & 0xC0u) == 0x80u; }

// Bytes of the well-formed sequence at `at`, or 0 with `bad` set to the length of the maximal ill-formed
// part.
std::size_t well_formed(std::string_view text, std::size_t at, std::size_t& bad) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(at);
    bad = 1;
    if (lead < 0x80) return 1;
    const std::size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                               : lead >= 0xE0 && lead <= 0xEF ? 3
                               : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                              : 0;
    if (length == 0) return 0;
    // The second byte's range excludes overlong forms, surrogates and values beyond U+10FFFF.
    const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    for (std::size_t i = 1; i < length; ++i) {
        if (at + i >= text.size()) return 0;
        const unsigned char next = byte(at + i);
        if (i == 1 ? (next < low || next > high) : !is_continuation(next)) return 0;
        bad = i + 1;
    }
    return length;
}

// Hangul syllables compose by arithmetic (Unicode standard, section 3.12).
constexpr char32_t kSyllables = 0xAC00, kLeading = 0x1100, kVowels = 0x1161, kTrailing = 0x11A7;
constexpr char32_t kLeadingCount = 19, kVowelCount = 21, kTrailingCount = 28;
constexpr char32_t kSyllableCount = kLeadingCount * kVowelCount * kTrailingCount;

void decompose(char32_t c, std::u32string& out) {
    if (c >= kSyllables && c < kSyllables + kSyllableCount) {
        const char32_t index = c - kSyllables;
        out += kLeading + index / (kVowelCount * kTrailingCount);
        out += kVowels + index % (kVowelCount * kTrailingCount) / kTrailingCount;
        if (index % kTrailingCount != 0) out += kTrailing + index % kTrailingCount;
        return;
    }
    const auto found =
        std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), c,
                         [](const Decomposition& d, char32_t value) { return d.code_point < value; });
    if (found == std::end(kDecompositions) || found->code_point != c) {
        out += c;
        return;
    }
    decompose(found->first, out);
    if (found->second != 0) decompose(found->second, out);
}

char32_t compose(char32_t first, char32_t second) {  // 0: they do not compose
    if (first >= kLeading && first < kLeading + kLeadingCount && second >= kVowels &&
        second < kVowels + kVowelCount) {
        return kSyllables + ((first - kLeading) * kVowelCount + (second - kVowels)) * kTrailingCount;
    }
    if (first >= kSyllables && first < kSyllables + kSyllableCount &&
        (first - kSyllables) % kTrailingCount == 0 && second > kTrailing &&
        second < kTrailing + kTrailingCount) {
        return first + (second - kTrailing);
    }
    const auto found =
        std::lower_bound(std::begin(kCompositions), std::end(kCompositions), std::pair(first, second),
                         [](const Composition& c, const std::pair<char32_t, char32_t>& pair) {
                             return std::pair(c.first, c.second) < pair;
                         });
    const bool composes =
        found != std::end(kCompositions) && found->first == first && found->second == second;
    return composes ? found->code_point : 0;
}

void order_marks(std::u32string& text) {
    for (std::size_t begin = 0; begin < text.size();) {
        if (combining_order(text[begin]) == 0) {
            ++begin;
            continue;
        }
        std::size_t end = begin;
        while (end < text.size() && combining_order(text[end]) != 0) ++end;
        std::stable_sort(text.begin() + static_cast<std::ptrdiff_t>(begin),
                         text.begin() + static_cast<std::ptrdiff_t>(end),
                         [](char32_t a, char32_t b) { return combining_order(a) < combining_order(b); });
        begin = end;
    }
}

std::u32string decompose_all(std::string_view text) {
    std::u32string out;
    for (std::size_t at = 0; at < text.size();) {
        const CodePoint c = code_point_at(text, at);
        decompose(c.value, out);
        at += c.length;
    }
    order_marks(out);
    return out;
}

std::u32string compose_all(const std::u32string& text) {
    std::u32string out;
    std::size_t starter = std::u32string::npos;
    std::uint8_t last_order = 0;
    for (const char32_t c : text) {
        const std::uint8_t order = combining_order(c);
        const bool adjacent = starter != std::u32string::npos && starter + 1 == out.size();
        if (starter != std::u32string::npos && (adjacent || (last_order != 0 && last_order < order))) {
            if (const char32_t composed = compose(out[starter], c)) {
                out[starter] = composed;
                continue;
            }
        }
        if (order == 0) starter = out.size();
        last_order = order;
        out += c;
    }
    return out;
}

bool is_ascii(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

std::string to_utf8(const std::u32string& text) {
    std::string out;
    for (const char32_t c : text) append_utf8(out, c);
    return out;
}

}  // namespace

CodePoint code_point_at(std::string_view text, std::size_t at) {
    const auto bits = [&](std::size_t i) {
        return static_cast<char32_t>(static_cast<unsigned char>(text[at + i]));
    };
    const char32_t lead = bits(0);
    if (lead < 0x80) return {lead, 1};
    if (lead < 0xE0) return {((lead & 0x1F) << 6) | (bits(1) & 0x3F), 2};
    if (lead < 0xF0) return {((lead & 0x0F) << 12) | ((bits(1) & 0x3F) << 6) | (bits(2) & 0x3F), 3};
    return {((lead & 0x07) << 18) | ((bits(1) & 0x3F) << 12) | ((bits(2) & 0x3F) << 6) | (bits(3) & 0x3F), 4};
}

std::size_t code_point_before(std::string_view text, std::size_t end) {
    std::size_t begin = end - 1;
    while (begin > 0 && is_continuation(static_cast<unsigned char>(text[begin]))) --begin;
    return begin;
}

void append_utf8(std::string& out, char32_t c) {
    const auto put = [&](char32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (c < 0x80) {
        put(c);
    } else if (c < 0x800) {
        put(0xC0 | (c >> 6));
        put(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        put(0xE0 | (c >> 12));
        put(0x80 | ((c >> 6) & 0x3F));
        put(0x80 | (c & 0x3F));
    } else {
        put(0xF0 | (c >> 18));
        put(0x80 | ((c >> 12) & 0x3F));
        put(0x80 | ((c >> 6) & 0x3F));
        put(0x80 | (c & 0x3F));
    }
}

bool is_valid_utf8(std::string_view text) {
    std::size_t bad = 0;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t length = well_formed(text, at, bad);
        if (length == 0) return false;
        at += length;
    }
    return true;
}

std::string to_valid_utf8(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
        std::size_t bad = 0;
        const std::size_t length = well_formed(text, at, bad);
        if (length == 0) {
            out += "\xEF\xBF\xBD";
            at += bad;
        } else {
            out.append(text, at, length);
            at += length;
        }
    }
    return out;
}

bool is_letter(char32_t c) {
    if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return find_range(kLetters, c) != std::end(kLetters);
}

bool is_number(char32_t c) {
    if (c < 0x80) return c >= '0' && c <= '9';
    return find_range(kNumbers, c) != std::end(kNumbers);
}

bool is_word(char32_t c) {
    if (c < 0x80) return is_letter(c) || is_number(c) || c == '_';
    return find_range(kWords, c) != std::end(kWords);
}

bool is_whitespace(char32_t c) {
    return (c >= 0x9 && c <= 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

std::string to_nfd(std::string_view text) {
    return is_ascii(text) ? std::string(text) : to_utf8(decompose_all(text));
}

std::string to_nfc(std::string_view text) {
    return is_ascii(text) ? std::string(text) : to_utf8(compose_all(decompose_all(text)));
}

}  // namespace fedllm::client::data
