// The regular expressions that byte-level tokenizers split text with, written out by hand: a general regex
// engine would be a dependency for three patterns. Each function of the text decides the same as the
// expression does.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace fedllm::client::data {

enum class SplitPattern {
    Gpt2,    // contractions, words, numbers, the rest, whitespace; a word takes the space before it
    Llama3,  // contractions in any case, numbers of at most three digits, newlines kept together
    Qwen2,   // Llama3 with single digits
};

// The pattern that a tokenizer.json spells out, or nothing where it is none of ours.
std::optional<SplitPattern> find_split_pattern(std::string_view regex);
std::string list_split_patterns();  // for error messages

// Bytes of the match that begins at `at` (< text.size()); at least one code point, for the patterns cover all
// text. The text is valid UTF-8.
std::size_t match_length(SplitPattern pattern, std::string_view text, std::size_t at);

}  // namespace fedllm::client::data
