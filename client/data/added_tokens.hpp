// Tokens that are found in the text before anything else happens to it: the "added_tokens" of tokenizer.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "client/data/bpe_model.hpp"
#include "client/data/json_fields.hpp"
#include "client/data/normalizer.hpp"

namespace fedllm::client::data {

class AddedTokens {
public:
    // A stretch of text, or the token that stands in its place.
    struct Part {
        std::optional<std::int32_t> token;
        std::size_t begin;
        std::size_t end;
    };
    enum class Stage { BeforeNormalizing, AfterNormalizing };

    // `field`: the array, or null. The tokens' ids must agree with the model's.
    static Result<AddedTokens> parse(const JsonField& field, const BpeModel& model,
                                     const Normalizer& normalizer);

    // Leftmost longest matches of the tokens that belong to this stage, and the text between them.
    std::vector<Part> split(std::string_view text, Stage stage) const;

    const std::string* token_of(
        std::int32_t id) const;  // as decoding spells it: normalized where it was found so
    std::optional<std::int32_t> id_of(std::string_view content) const;
    bool is_special(std::int32_t id) const;
    std::size_t id_limit() const { return id_limit_; }

private:
    struct Token {
        std::int32_t id;
        std::string spelling;
        bool special;
        bool strip_left;   // swallows the whitespace before it
        bool strip_right;  // and after it
        bool single_word;  // only where no letter, mark or digit touches it
    };
    // Patterns by first byte, longest first. There are few, and most bytes begin none.
    struct Matcher {
        struct Pattern {
            std::string text;
            std::size_t token;
        };
        std::vector<Pattern> by_first_byte[256];

        void add(std::string text, std::size_t token);
        const Pattern* match(std::string_view text, std::size_t at) const;
    };

    Result<void> read(const JsonField& entry, const BpeModel& model, const Normalizer& normalizer);

    std::vector<Token> tokens_;
    std::unordered_map<std::int32_t, std::size_t> by_id_;
    std::map<std::string, std::size_t, std::less<>> by_content_;
    Matcher raw_;
    Matcher normalized_;
    std::size_t id_limit_ = 0;
};

}  // namespace fedllm::client::data
