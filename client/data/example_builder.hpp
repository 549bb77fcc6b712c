// From a row's text to examples: tokens, next-token targets, and the loss mask.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "client/data/dataset.hpp"

namespace fedllm::client::data {

struct BuiltRow {
    std::vector<Example> examples;  // none: nothing to learn
    bool truncated = false;
};

// Segments are tokenized one by one, as a prompt is when the model is used: what is learned then never
// depends on how a prompt's last and an answer's first character would have merged.
//
// A chat's text is tokenized whole, its template having written all special tokens; a token is learned if any
// part of it is the assistant's.
//
// Text is cut into windows; each token is predicted once. A prompt with its answer is one example: too long,
// it loses the left of what comes before the first learned token (the BOS stays), then the right of the
// answer.
BuiltRow build_examples(const Row& row, const Tokenizer& tokenizer, const DatasetOptions& options);

}  // namespace fedllm::client::data
