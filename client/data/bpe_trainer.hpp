// Learns a byte-level BPE vocabulary from text (Sennrich et al. 2016) and writes it as a tokenizer.json.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "common/base/result.hpp"

namespace fedllm::client::data {

struct BpeTrainerOptions {
    std::string bos = "<|bos|>";       // id 0; the file's template puts it before a text
    std::string eos = "<|eos|>";       // id 1
    std::size_t pair_count_min = 2;    // rarer pairs are not learned
    std::size_t token_bytes_max = 32;  // longer tokens are not learned: rulers and indents teach nothing
};

// The ids are bos, eos, the 256 bytes, then the learned tokens in the order of their learning: the most
// frequent pair first, of equally frequent ones that of the lowest ids; so the same texts give the same file.
// Words are split as GPT-2 splits them. Text that has too few frequent pairs gives a smaller vocabulary than
// asked for.
Result<std::string> train_byte_level_bpe(std::span<const std::string> texts, std::size_t vocab_size,
                                         const BpeTrainerOptions& options);

}  // namespace fedllm::client::data
