// How a tokenizer cuts text into words, within which alone BPE merges: the "pre_tokenizer" of tokenizer.json.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "client/data/json_fields.hpp"
#include "client/data/split_pattern.hpp"

namespace fedllm::client::data {

class PreTokenizer {
public:
    static Result<PreTokenizer> parse(const JsonField& field);  // null: the text is one word

    // `at_start`: the piece is the beginning of the text, which decides the prefix of a "first" Metaspace.
    std::vector<std::string> apply(std::string piece, bool at_start) const;

private:
    struct ByteLevel {
        bool add_prefix_space;
        bool use_regex;
    };
    struct Digits {
        bool individual;
    };
    struct Split {
        SplitPattern pattern;
    };
    struct Metaspace {
        enum class Prefix { Always, First, Never };
        std::string replacement;
        Prefix prefix;
        bool split;
    };
    using Step = std::variant<ByteLevel, Digits, Split, Metaspace>;
    using Words = std::vector<std::string>;

    static Result<void> parse_into(const JsonField& field, int depth, std::vector<Step>& steps);
    static Result<Step> parse_split(const JsonField& field);
    static Result<Step> parse_metaspace(const JsonField& field);

    static void apply(const ByteLevel& step, std::string word, bool at_start, Words& out);
    static void apply(const Digits& step, std::string word, bool at_start, Words& out);
    static void apply(const Split& step, std::string word, bool at_start, Words& out);
    static void apply(const Metaspace& step, std::string word, bool at_start, Words& out);

    std::vector<Step> steps_;
};

}  // namespace fedllm::client::data
