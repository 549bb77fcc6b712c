// Uploads share what memory there is, in order, and none of it is lost or given twice.
#include "server/ingest/upload_memory.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "common/base/philox.hpp"

namespace fedllm::server::ingest {
namespace {

void nothing() {}

TEST(UploadMemory, IsGrantedWhileThereIsSomeThenInOrder) {
    UploadMemory memory(100);
    auto first = std::make_optional(memory.ask(60, nothing));
    auto second = std::make_optional(memory.ask(40, nothing));
    EXPECT_TRUE(first->granted() && second->granted());
    std::vector<int> order;
    auto large = std::make_optional(memory.ask(70, [&] { order.push_back(3); }));
    auto small = std::make_optional(memory.ask(10, [&] { order.push_back(4); }));
    EXPECT_FALSE(large->granted());
    EXPECT_EQ(memory.waiting(), 2u);
    second.reset();
    EXPECT_FALSE(small->granted()) << "a small one does not overtake the large one before it";
    first.reset();
    EXPECT_EQ(order, (std::vector<int>{3, 4}));
    EXPECT_TRUE(large->granted() && small->granted());
    EXPECT_EQ(memory.bytes_in_use(), 80u);
}

TEST(UploadMemory, ALeftPlaceIsFree) {
    UploadMemory memory(100);
    auto all = std::make_optional(memory.ask(100, nothing));
    auto gone = std::make_optional(memory.ask(100, [] { FAIL() << "it has left the queue"; }));
    auto next = memory.ask(50, nothing);
    gone.reset();
    EXPECT_EQ(memory.waiting(), 1u);
    all.reset();
    EXPECT_TRUE(next.granted());
    auto moved = std::move(next);
    next = UploadMemory::Share();
    EXPECT_EQ(memory.bytes_in_use(), 50u) << "moved, and not given back";
}

TEST(UploadMemory, WhatIsLargerThanAllComesAlone) {
    UploadMemory memory(100);
    auto other = std::make_optional(memory.ask(1, nothing));
    const auto giant = memory.ask(1'000'000, nothing);
    EXPECT_FALSE(giant.granted());
    other.reset();
    EXPECT_TRUE(giant.granted());
    EXPECT_EQ(memory.bytes_in_use(), 100u);
}

// Many asking and leaving in any order: never more than there is, all of it free at the end, and nobody waits
// while nothing is in use.
TEST(UploadMemory, NeverExceedsItsLimitWhateverComesAndGoes) {
    for (std::uint64_t seed = 1; seed <= 50; ++seed) {
        Rng rng(seed, "upload memory");
        UploadMemory memory(1000);
        std::vector<UploadMemory::Share> shares;
        for (int event = 0; event < 400; ++event) {
            if (shares.empty() || rng.below(2) == 0) {
                shares.push_back(memory.ask(1 + rng.below(400), nothing));
            } else {
                std::swap(shares[rng.below(shares.size())], shares.back());
                shares.pop_back();
            }
            ASSERT_LE(memory.bytes_in_use(), 1000u) << "seed " << seed;
            ASSERT_TRUE(memory.waiting() == 0 || memory.bytes_in_use() > 600) << "seed " << seed;
        }
        shares.clear();
        EXPECT_EQ(memory.bytes_in_use() + memory.waiting(), 0u);
    }
}

}  // namespace
}  // namespace fedllm::server::ingest
