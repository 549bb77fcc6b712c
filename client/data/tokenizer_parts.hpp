// What a tokenizer is made of; private to its two ways of encoding.
#pragma once

#include "client/data/added_tokens.hpp"
#include "client/data/bpe_model.hpp"
#include "client/data/chat_template.hpp"
#include "client/data/decoder.hpp"
#include "client/data/normalizer.hpp"
#include "client/data/post_processor.hpp"
#include "client/data/pre_tokenizer.hpp"
#include "client/data/tokenizer.hpp"

namespace fedllm::client::data {

// The stages of encoding, in order, and the decoder.
struct Tokenizer::Parts {
    AddedTokens added;
    Normalizer normalizer;
    PreTokenizer pre_tokenizer;
    BpeModel model;
    PostProcessor post_processor;
    Decoder decoder;

    const std::string* token_of(std::int32_t id) const {
        const std::string* token = added.token_of(id);
        return token ? token : model.token_of(id);
    }
};

}  // namespace fedllm::client::data
