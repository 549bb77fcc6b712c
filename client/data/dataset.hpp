// A JSONL file as token examples for next-token training, split into train and eval.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "client/data/row.hpp"
#include "client/data/tokenizer.hpp"
#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "kernels/cross_entropy/op.hpp"

namespace fedllm::client::data {

using kernels::kIgnoreIndex;

struct Example {
    std::vector<std::int32_t> tokens;   // at least one, at most the sequence length
    std::vector<std::int32_t> targets;  // as many: the token that follows, or kIgnoreIndex

    bool operator==(const Example&) const = default;
};

struct DatasetOptions {
    std::size_t sequence_length = 256;
    double eval_fraction = 0.1;            // of the rows; 0: no eval rows
    std::uint64_t seed = 0;                // of the split
    bool append_eos = true;                // after a text or an answer, if the tokenizer has one
    bool prepend_bos = true;               // if the tokenizer has one
    std::size_t examples_max = 1'000'000;  // rows beyond are left out, and counted
    Path eval_path;  // not empty: eval rows come from this file and all rows of the other one train
};

struct DatasetStats {
    std::size_t rows = 0;            // usable ones
    std::size_t rows_skipped = 0;    // nothing to learn
    std::size_t rows_truncated = 0;  // tokens were dropped to fit the sequence length
    std::size_t rows_left_out = 0;   // beyond examples_max
    std::size_t train_examples = 0;
    std::size_t train_tokens = 0;
    std::size_t train_labels = 0;  // targets that count
    std::size_t eval_examples = 0;
    std::size_t eval_tokens = 0;
    std::size_t eval_labels = 0;

    bool operator==(const DatasetStats&) const = default;
};

class Dataset {
public:
    // Any line that cannot be used is an error, "file:line: ...". So is a file without a usable row.
    // The split depends on seed, line number and fraction alone; it is by row, so that windows of one text
    // stay on one side. With two rows or more and a fraction above 0 each side has at least one.
    static Result<Dataset> load_jsonl(const Path& path, const Tokenizer& tokenizer,
                                      const DatasetOptions& options);

    std::span<const Example> train() const { return train_; }
    std::span<const Example> eval() const { return eval_; }
    const DatasetStats& stats() const { return stats_; }

private:
    std::vector<Example> train_;
    std::vector<Example> eval_;
    DatasetStats stats_;
};

}  // namespace fedllm::client::data
