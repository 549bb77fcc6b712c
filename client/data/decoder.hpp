// From tokens back to text: the "decoder" of tokenizer.json.
#pragma once

#include <cstddef>
#include <string>
#include <variant>
#include <vector>

#include "client/data/json_fields.hpp"

namespace fedllm::client::data {

class Decoder {
public:
    static Result<Decoder> parse(const JsonField& field);  // null: tokens with a space between them

    std::string apply(std::vector<std::string> tokens) const;

private:
    struct ByteLevel {};
    struct ByteFallback {};
    struct Fuse {};
    struct Replace {
        std::string pattern;
        std::string content;
    };
    struct Strip {
        std::string content;
        std::size_t start;
        std::size_t stop;
    };
    struct Metaspace {
        std::string replacement;
        bool prefixed;
    };
    using Step = std::variant<ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace>;
    using Tokens = std::vector<std::string>;

    static Result<void> parse_into(const JsonField& field, int depth, std::vector<Step>& steps);
    static Result<Step> parse_step(const JsonField& field, const std::string& type);

    static Tokens apply(const ByteLevel& step, Tokens tokens);
    static Tokens apply(const ByteFallback& step, Tokens tokens);
    static Tokens apply(const Fuse& step, Tokens tokens);
    static Tokens apply(const Replace& step, Tokens tokens);
    static Tokens apply(const Strip& step, Tokens tokens);
    static Tokens apply(const Metaspace& step, Tokens tokens);

    std::vector<Step> steps_;
    bool absent_ = false;
};

}  // namespace fedllm::client::data
