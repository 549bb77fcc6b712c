// The special tokens a tokenizer puts around a text: the "post_processor" of tokenizer.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "client/data/json_fields.hpp"

namespace fedllm::client::data {

class PostProcessor {
public:
    static Result<PostProcessor> parse(const JsonField& field);  // null: none

    const std::vector<std::int32_t>& prefix() const { return prefix_; }
    const std::vector<std::int32_t>& suffix() const { return suffix_; }

private:
    Result<void> parse_into(const JsonField& field, int depth);
    Result<void> parse_template(const JsonField& field);
    Result<void> parse_piece(const JsonField& field, const JsonField& piece, bool& seen_text);

    std::vector<std::int32_t> prefix_;
    std::vector<std::int32_t> suffix_;
    bool has_template_ = false;
};

}  // namespace fedllm::client::data
