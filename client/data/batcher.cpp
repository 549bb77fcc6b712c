#include "client/data/batcher.hpp"

#include <algorithm>
#include <numeric>

#include "common/base/philox.hpp"

namespace fedllm::client::data {
namespace {

void check_examples(std::span<const Example> examples, std::size_t sequence_length) {
    for (const auto& example : examples) {
        FEDLLM_CHECK(!example.tokens.empty() && example.tokens.size() <= sequence_length,
                     "examples fit the sequence length they were made for");
        FEDLLM_CHECK(example.tokens.size() == example.targets.size(), "a target for each token");
    }
}

}  // namespace

BatchFiller::BatchFiller(std::size_t rows, std::size_t sequence_length, Packing packing)
    : sequence_length_(sequence_length), packing_(packing), used_(rows, 0) {
    FEDLLM_CHECK(rows > 0 && sequence_length > 0, "a batch has rows and tokens");
}

void BatchFiller::begin(Batch& batch) {
    const std::size_t size = used_.size() * sequence_length_;
    batch.rows = used_.size();
    batch.tokens_per_row = sequence_length_;
    batch.labels = 0;
    for (auto* values : {&batch.tokens, &batch.targets, &batch.positions, &batch.first_key})
        values->resize(size);
    std::fill(used_.begin(), used_.end(), std::size_t{0});
    batch_ = &batch;
}

std::size_t BatchFiller::row_for(std::size_t length) const {
    const auto fits = [&](std::size_t used) {
        return packing_ == Packing::On ? used + length <= sequence_length_ : used == 0;
    };
    return static_cast<std::size_t>(std::find_if(used_.begin(), used_.end(), fits) - used_.begin());
}

bool BatchFiller::place(const Example& example) {
    const std::size_t row = row_for(example.tokens.size());
    if (row == used_.size()) return false;
    write(row, example.tokens, example.targets, example.tokens.size());
    batch_->labels +=
        example.targets.size() -
        static_cast<std::size_t>(std::count(example.targets.begin(), example.targets.end(), kIgnoreIndex));
    return true;
}

void BatchFiller::finish() {
    for (std::size_t row = 0; row < used_.size(); ++row) write(row, {}, {}, sequence_length_ - used_[row]);
}

// Appends a document to a row; without tokens it is padding.
void BatchFiller::write(std::size_t row, std::span<const std::int32_t> tokens,
                        std::span<const std::int32_t> targets, std::size_t length) {
    const std::size_t first = used_[row];
    const std::size_t offset = row * sequence_length_ + first;
    for (std::size_t i = 0; i < length; ++i) {
        batch_->tokens[offset + i] = tokens.empty() ? 0 : tokens[i];
        batch_->targets[offset + i] = targets.empty() ? kIgnoreIndex : targets[i];
        batch_->positions[offset + i] = static_cast<std::int32_t>(i);
        batch_->first_key[offset + i] = static_cast<std::int32_t>(first);
    }
    used_[row] += length;
}

Batcher::Batcher(std::span<const Example> examples, std::size_t rows, std::size_t sequence_length,
                 std::uint64_t seed, Packing packing)
    : examples_(examples), seed_(seed), filler_(rows, sequence_length, packing), order_(examples.size()) {
    FEDLLM_CHECK(!examples.empty(), "there is something to learn from");
    check_examples(examples, sequence_length);
    shuffle();
    Batch scratch;
    do {
        filler_.begin(scratch);
        while (cursor_ < order_.size() && filler_.place(examples_[order_[cursor_]])) ++cursor_;
        ++steps_per_epoch_;
    } while (cursor_ < order_.size());
    cursor_ = 0;
}

void Batcher::shuffle() {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    Rng rng(seed_, stream_of("data/shuffle") + epoch_);
    for (std::size_t i = order_.size(); i > 1; --i)
        std::swap(order_[i - 1], order_[rng.below(i)]);  // Fisher-Yates
}

void Batcher::next(Batch& batch) {
    filler_.begin(batch);
    while (filler_.place(examples_[order_[cursor_]])) {
        if (++cursor_ < order_.size()) continue;
        cursor_ = 0;
        ++epoch_;
        shuffle();
    }
    filler_.finish();
}

EvalBatches::EvalBatches(std::span<const Example> examples, std::size_t rows, std::size_t sequence_length,
                         Packing packing)
    : examples_(examples), filler_(rows, sequence_length, packing) {
    check_examples(examples, sequence_length);
}

bool EvalBatches::next(Batch& batch) {
    if (cursor_ == examples_.size()) return false;
    filler_.begin(batch);
    while (cursor_ < examples_.size() && filler_.place(examples_[cursor_])) ++cursor_;
    filler_.finish();
    return true;
}

}  // namespace fedllm::client::data
