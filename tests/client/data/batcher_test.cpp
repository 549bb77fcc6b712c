#include "client/data/batcher.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

namespace fedllm::client::data {
namespace {

constexpr std::size_t kRows = 3;
constexpr std::size_t kLength = 16;

// Example i has tokens 100*(i+1) .. and as targets the next numbers; the first target does not count.
std::vector<Example> make_examples(std::size_t count) {
    std::vector<Example> examples(count);
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t length = 1 + (i * 7) % kLength;
        for (std::size_t t = 0; t < length; ++t) {
            examples[i].tokens.push_back(static_cast<std::int32_t>(100 * (i + 1) + t));
            examples[i].targets.push_back(t == 0 ? kIgnoreIndex
                                                 : static_cast<std::int32_t>(100 * (i + 1) + t + 1));
        }
    }
    return examples;
}

// Checks the batch's structure and counts how often each example occurs in it.
void take_apart(const Batch& batch, const std::vector<Example>& examples, std::map<std::size_t, int>& seen) {
    ASSERT_EQ(batch.rows, kRows);
    ASSERT_EQ(batch.tokens_per_row, kLength);
    std::size_t labels = 0;
    for (std::size_t row = 0; row < batch.rows; ++row) {
        for (std::size_t t = 0; t < kLength;) {
            const std::size_t first = row * kLength + t;
            const bool padding = batch.tokens[first] == 0;
            const std::size_t index = padding ? 0 : static_cast<std::size_t>(batch.tokens[first]) / 100 - 1;
            const std::size_t length = padding ? kLength - t : examples[index].tokens.size();
            ASSERT_LE(t + length, kLength);
            for (std::size_t i = 0; i < length; ++i) {
                EXPECT_EQ(batch.tokens[first + i], padding ? 0 : examples[index].tokens[i]);
                EXPECT_EQ(batch.targets[first + i], padding ? kIgnoreIndex : examples[index].targets[i]);
                EXPECT_EQ(batch.positions[first + i], static_cast<std::int32_t>(i));
                EXPECT_EQ(batch.first_key[first + i], static_cast<std::int32_t>(t));
                labels += batch.targets[first + i] != kIgnoreIndex;
            }
            if (!padding) ++seen[index];
            t += length;
        }
    }
    EXPECT_EQ(batch.labels, labels);
}

class BatcherPacking : public ::testing::TestWithParam<Packing> {};

TEST_P(BatcherPacking, EveryEpochShowsEachExampleOnce) {
    const auto examples = make_examples(50);
    Batcher batcher(examples, kRows, kLength, 11, GetParam());
    std::map<std::size_t, int> seen;
    Batch batch;
    std::size_t total = 0;
    for (int step = 0; step < 200; ++step) {
        batcher.next(batch);
        take_apart(batch, examples, seen);
        total = 0;
        for (const auto& [index, count] : seen) total += static_cast<std::size_t>(count);
        // Epochs follow one another without a gap, so counts never differ by more than one at a whole epoch.
        const int whole = static_cast<int>(total / examples.size());
        for (std::size_t i = 0; i < examples.size(); ++i) {
            EXPECT_GE(seen[i], whole);
            EXPECT_LE(seen[i], whole + 1);
        }
    }
    EXPECT_GT(total, 5 * examples.size());
}

TEST_P(BatcherPacking, TheSeedDecides) {
    const auto examples = make_examples(50);
    Batcher a(examples, kRows, kLength, 11, GetParam());
    Batcher b(examples, kRows, kLength, 11, GetParam());
    Batcher c(examples, kRows, kLength, 12, GetParam());
    Batch batch_a, batch_b, batch_c;
    bool differs = false;
    for (int step = 0; step < 50; ++step) {
        a.next(batch_a);
        b.next(batch_b);
        c.next(batch_c);
        EXPECT_EQ(batch_a, batch_b);
        differs = differs || !(batch_a == batch_c);
    }
    EXPECT_TRUE(differs);
}

TEST_P(BatcherPacking, EpochsDifferInOrder) {
    const auto examples = make_examples(30);
    Batcher batcher(examples, 1, kLength, 3, Packing::Off);
    std::vector<std::int32_t> first, second;
    Batch batch;
    for (auto* epoch : {&first, &second}) {
        for (std::size_t i = 0; i < examples.size(); ++i) {
            batcher.next(batch);
            epoch->push_back(batch.tokens[0]);
        }
    }
    EXPECT_NE(first, second);
    std::sort(first.begin(), first.end());
    std::sort(second.begin(), second.end());
    EXPECT_EQ(first, second);
}

TEST_P(BatcherPacking, NextReusesItsMemory) {
    const auto examples = make_examples(50);
    Batcher batcher(examples, kRows, kLength, 11, GetParam());
    Batch batch;
    batcher.next(batch);
    const auto* tokens = batch.tokens.data();
    const auto* keys = batch.first_key.data();
    for (int step = 0; step < 100; ++step) batcher.next(batch);
    EXPECT_EQ(batch.tokens.data(), tokens);
    EXPECT_EQ(batch.first_key.data(), keys);
}

TEST_P(BatcherPacking, EvalCoversEachExampleOnceInOrder) {
    const auto examples = make_examples(50);
    EvalBatches batches(examples, kRows, kLength, GetParam());
    for (int pass = 0; pass < 2; ++pass) {
        std::map<std::size_t, int> seen;
        Batch batch;
        std::int32_t last_first_token = 0;
        while (batches.next(batch)) {
            take_apart(batch, examples, seen);
            EXPECT_GT(batch.tokens[0], last_first_token);
            last_first_token = batch.tokens[0];
        }
        EXPECT_EQ(seen.size(), examples.size());
        for (const auto& [index, count] : seen) EXPECT_EQ(count, 1) << index;
        batches.rewind();
    }
}

INSTANTIATE_TEST_SUITE_P(Both, BatcherPacking, ::testing::Values(Packing::Off, Packing::On),
                         [](const auto& test) { return test.param == Packing::On ? "Packed" : "Separate"; });

TEST(Batcher, PackingNeedsFewerSteps) {
    const auto examples = make_examples(50);
    const Batcher separate(examples, kRows, kLength, 11, Packing::Off);
    const Batcher packed(examples, kRows, kLength, 11, Packing::On);
    EXPECT_EQ(separate.steps_per_epoch(), 17u);  // 50 examples by threes
    EXPECT_LT(packed.steps_per_epoch(), 14u);
}

TEST(Batcher, EvalOfNothingIsNothing) {
    EvalBatches batches({}, kRows, kLength);
    Batch batch;
    EXPECT_FALSE(batches.next(batch));
}

}  // namespace
}  // namespace fedllm::client::data
