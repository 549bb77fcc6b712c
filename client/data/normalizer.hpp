// What a tokenizer does to text before it splits it: the "normalizer" of tokenizer.json.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "client/data/json_fields.hpp"

namespace fedllm::client::data {

class Normalizer {
public:
    static Result<Normalizer> parse(const JsonField& field);  // null: leaves text as it is

    std::string apply(std::string_view text) const;  // valid UTF-8 in and out; empty stays empty

private:
    struct Prepend {
        std::string prefix;
    };
    struct Replace {
        std::string pattern;
        std::string content;
    };
    struct Nfc {};
    struct Nfd {};
    struct Strip {
        bool left;
        bool right;
    };
    using Step = std::variant<Prepend, Replace, Nfc, Nfd, Strip>;

    static Result<void> parse_into(const JsonField& field, int depth, std::vector<Step>& steps);

    std::vector<Step> steps_;
};

// White_Space at the ends of valid UTF-8, as bytes to skip.
std::size_t skip_whitespace(std::string_view text, std::size_t at);
std::size_t skip_whitespace_back(std::string_view text, std::size_t end);

// Every occurrence, from the left, not overlapping.
std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content);

// {"String": "..."} as tokenizer.json writes literal patterns; a regex is refused by name.
Result<std::string> parse_literal_pattern(const JsonField& owner);

// How deep "Sequence" may nest before a file is called broken.
inline constexpr int kSequenceDepthMax = 8;

}  // namespace fedllm::client::data
