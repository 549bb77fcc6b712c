// Examples as rectangular batches: shuffled and endless for training, in order and once for evaluation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "client/data/dataset.hpp"

namespace fedllm::client::data {

// All vectors are (rows, tokens_per_row). Several documents may share a row: positions restart at 0 in each,
// and first_key[t] is the index in the row of the first token of t's document (kernels/attention/op.hpp).
// What is left of a row is padding: a document of token 0 whose targets do not count.
struct Batch {
    std::size_t rows = 0;
    std::size_t tokens_per_row = 0;
    std::size_t labels = 0;  // targets that count
    std::vector<std::int32_t> tokens;
    std::vector<std::int32_t> targets;
    std::vector<std::int32_t> positions;
    std::vector<std::int32_t> first_key;

    bool operator==(const Batch&) const = default;
};

enum class Packing { Off, On };  // Off: one example in a row

// Puts examples into the rows of one batch, each into the first row with room for it.
class BatchFiller {
public:
    BatchFiller(std::size_t rows, std::size_t sequence_length, Packing packing);

    void begin(Batch& batch);            // sizes the vectors, on the first call
    bool place(const Example& example);  // false: no row has room
    void finish();                       // pads the rest

private:
    std::size_t row_for(std::size_t length) const;  // or used_.size()
    void write(std::size_t row, std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets,
               std::size_t length);

    std::size_t sequence_length_;
    Packing packing_;
    std::vector<std::size_t> used_;  // tokens in each row
    Batch* batch_ = nullptr;
};

// Endless batches over the examples, which it borrows. Each epoch is a new order, drawn by Philox from (seed,
// epoch), and goes on in the batch in which the last one ended: no padding between epochs. The same arguments
// give the same batches. next() allocates in its first call with a batch only.
class Batcher {
public:
    // The examples: at least one, none empty or longer than sequence_length.
    Batcher(std::span<const Example> examples, std::size_t rows, std::size_t sequence_length,
            std::uint64_t seed, Packing packing);

    void next(Batch& batch);

    std::size_t steps_per_epoch() const { return steps_per_epoch_; }  // of the first epoch, rounded up

private:
    void shuffle();

    std::span<const Example> examples_;
    std::uint64_t seed_;
    BatchFiller filler_;
    std::vector<std::size_t> order_;
    std::uint64_t epoch_ = 0;
    std::size_t cursor_ = 0;  // in order_
    std::size_t steps_per_epoch_ = 0;
};

// Each example once, in order; the last batch is padded.
class EvalBatches {
public:
    EvalBatches(std::span<const Example> examples, std::size_t rows, std::size_t sequence_length,
                Packing packing = Packing::Off);

    bool next(Batch& batch);  // false, and the batch as it was, once all are done
    void rewind() { cursor_ = 0; }

private:
    std::span<const Example> examples_;
    BatchFiller filler_;
    std::size_t cursor_ = 0;
};

}  // namespace fedllm::client::data
