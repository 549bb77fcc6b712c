// TextStream: generated tokens as text while they come. Never half a character, never a stop string.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "client/data/tokenizer.hpp"

namespace fedllm::client::train {

// Lifecycle: one for each text; the tokenizer must outlive it. Concurrency: one call at a time.
class TextStream {
public:
    // The prompt's tokens only say how the first new token continues: some tokenizers drop a space at the
    // beginning of a text. Empty stop strings are not looked at.
    TextStream(const data::Tokenizer& tokenizer, std::span<const std::int32_t> prompt,
               std::vector<std::string> stops);

    // What can be shown now: whole characters that no longer can be the beginning of a stop string.
    std::string push(std::int32_t token);
    // The rest. A character that never was completed comes as U+FFFD.
    std::string finish();

    bool stopped() const { return stopped_; }  // a stop string came; nothing follows

private:
    std::string fresh_text(bool last);
    std::string release(bool last);

    const data::Tokenizer* tokenizer_;
    std::vector<std::string> stops_;
    std::vector<std::int32_t> ids_;  // from a little before the text that is not shown yet
    std::size_t shown_ = 0;          // of ids_, whose text has left this class or waits in held_
    std::string held_;               // decoded, and perhaps the beginning of a stop string
    bool stopped_ = false;
};

}  // namespace fedllm::client::train
