// Uploads go into the round's sum as they arrive and leave it without a trace, whatever ends them.
#include "server/engine/intake.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "common/base/philox.hpp"
#include "common/crypto/sha256.hpp"
#include "tests/support/temp_dir.hpp"

namespace fedllm::server::engine {
namespace {

constexpr std::size_t kElements = 150'000;

struct Sent {
    ingest::Claim claim;
    std::vector<std::byte> bytes;
};

class IntakeTest : public ::testing::TestWithParam<codec::CodecId> {
protected:
    static SharedShape shape() {
        static const auto one = std::make_shared<const JobShape>(
            *tensor::Manifest::create({{"a.lora_A.weight", {100, 1000}}, {"a.lora_B.weight", {50, 1000}}}));
        return one;
    }
    ingest::UpdateRules rules() const {
        return {.codec = GetParam(), .clip_norm = 10.0, .samples_max = 1000};
    }
    SharedSum new_sum() const {
        return std::make_shared<RoundSum>(shape(), *tensor::FixedPoint::choose(11, 1e5),
                                          tensor::SumBits::Bits64);
    }
    Sent update(std::uint64_t seed, std::size_t bad_at = kElements) const {
        Rng rng(seed, "update");
        std::vector<float> values(kElements);
        for (float& value : values) value = 1e-3f * rng.normal();
        if (bad_at < kElements) values[bad_at] = 1000.0f;
        Sent sent;
        sent.bytes = *codec::encode({.id = GetParam(), .step = 1}, shape()->layout, values, seed);
        sent.claim.digest = crypto::to_hex(crypto::sha256(sent.bytes));
        sent.claim.bytes = sent.bytes.size();
        sent.claim.samples = 10 + seed;
        return sent;
    }
    std::unique_ptr<Intake> begin(const std::string& client, const Sent& sent, const Entry& entry) {
        const UploadTarget target{JobId("j1"), RoundId(0), ClientId(client), TaskId("j1/0/" + client)};
        auto intake = Intake::begin(spool_, shape(), rules(), target, sent.claim, entry);
        EXPECT_TRUE(intake) << intake.error().message;
        return std::move(*intake);
    }
    static Result<void> send(Intake& intake, const Sent& sent, std::size_t end, std::size_t piece) {
        while (intake.held() < end) {
            const std::size_t at = intake.held();
            FEDLLM_TRY_VOID(intake.take(at, std::span(sent.bytes).subspan(at, std::min(piece, end - at))));
        }
        return {};
    }
    static std::vector<float> mean_of(const SharedSum& sum, std::uint64_t weight) {
        std::vector<float> mean(kElements);
        sum->values().mean(mean, weight);
        return mean;
    }
    // What a sum holds that got this update alone.
    std::vector<float> alone(const Sent& sent, std::uint64_t weight) {
        const auto sum = new_sum();
        auto intake = begin("alone", sent, {sum, weight});
        EXPECT_TRUE(send(*intake, sent, sent.bytes.size(), 100'000));
        auto mean = mean_of(sum, weight);
        intake->discard();
        return mean;
    }

    test::TempDir dir_;
    ingest::Spool spool_ = *ingest::Spool::open(dir_.path());
};

TEST_P(IntakeTest, ManyAtOnceLeaveOnlyWhatWasKept) {
    const auto sum = new_sum();
    const Sent kept = update(1);
    const auto expected = alone(kept, 7);
    std::vector<std::thread> threads;
    for (std::uint64_t i = 1; i <= 8; ++i) {
        threads.emplace_back([&, i] {
            const Sent sent = i == 1 ? kept : update(i, i % 2 == 0 ? 100'000 + i : kElements);
            const auto intake = begin("client-" + std::to_string(i), sent, {sum, 7});
            const std::size_t end = i % 3 == 0 ? sent.bytes.size() / 2 : sent.bytes.size();
            const auto sent_all = send(*intake, sent, end, 10'000 + 1000 * i);
            EXPECT_EQ(sent_all.has_value(), i % 2 != 0 || i % 3 == 0) << i;
            if (i == 1) {
                EXPECT_TRUE(intake->settle());
                intake->keep();
            } else if (i % 2 == 0) {
                intake->discard();  // refused
            } else {
                intake->withdraw();  // cut, or too late
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_FALSE(sum->spoilt());
    EXPECT_EQ(mean_of(sum, 7), expected);
}

// Chunks may be on their way behind the one that was refused.
TEST_P(IntakeTest, NothingIsTakenAfterAnError) {
    const auto sum = new_sum();
    const Sent sent = update(3);
    auto intake = begin("a", sent, {sum, 7});
    const auto half = std::span(sent.bytes).first(sent.bytes.size() / 2);
    EXPECT_EQ(intake->take(1, half).error().code, Errc::OutOfOrder);
    EXPECT_EQ(intake->take(0, half).error().code, Errc::OutOfOrder) << "which was in order";
    EXPECT_EQ(intake->held(), 0u);
    EXPECT_EQ(mean_of(sum, 7), std::vector<float>(kElements));
    intake->discard();
}

TEST_P(IntakeTest, AResumedUploadIsInOnce) {
    const auto sum = new_sum();
    const Sent sent = update(2);
    const auto expected = alone(sent, 3);
    auto cut = begin("a", sent, {sum, 3});
    ASSERT_TRUE(send(*cut, sent, sent.bytes.size() * 2 / 3, 50'000));
    auto again = begin("a", sent, {sum, 3});  // the cut one still lives, and its file is gone
    const auto in_file = cut->held() - cut->held() % ingest::kBlockBytes;
    EXPECT_EQ(again->held(), in_file);  // what the cut one has in memory is sent again
    cut->withdraw();
    ASSERT_TRUE(send(*again, sent, sent.bytes.size(), 70'000));
    ASSERT_TRUE(again->settle());
    EXPECT_EQ(mean_of(sum, 3), expected);
    again->withdraw();
    auto complete = begin("a", sent, {sum, 3});
    EXPECT_TRUE(complete->complete());
    EXPECT_EQ(mean_of(sum, 3), expected);
    EXPECT_FALSE(sum->spoilt());
}

// FedBuff: the round closes while an upload is under way, or its staleness changes before it is accepted.
TEST_P(IntakeTest, MovesFromOneSumToTheNextWithAnotherWeight) {
    const auto first = new_sum(), second = new_sum();
    const Sent sent = update(3);
    auto intake = begin("a", sent, {first, 1024});
    ASSERT_TRUE(send(*intake, sent, sent.bytes.size() / 2, 30'000));
    intake->withdraw();
    ASSERT_TRUE(send(*intake, sent, sent.bytes.size() * 3 / 4, 30'000));
    EXPECT_EQ(mean_of(first, 1), std::vector<float>(kElements));
    ASSERT_TRUE(intake->enter({second, 724}));
    ASSERT_TRUE(send(*intake, sent, sent.bytes.size(), 30'000));
    ASSERT_TRUE(intake->settle());
    EXPECT_EQ(mean_of(second, 724), alone(sent, 724));
    ASSERT_TRUE(intake->enter({second, 591}));
    EXPECT_EQ(mean_of(second, 591), alone(sent, 591));
    intake->withdraw();
    EXPECT_EQ(mean_of(second, 1), std::vector<float>(kElements));
}

TEST_P(IntakeTest, ASpoolThatDoesNotGiveBackSpoilsTheSum) {
    const auto sum = new_sum();
    const Sent sent = update(4);
    auto intake = begin("a", sent, {sum, 5});
    ASSERT_TRUE(send(*intake, sent, sent.bytes.size(), 30'000));
    ASSERT_TRUE(intake->settle());
    for (const auto& entry : std::filesystem::directory_iterator(dir_.path() / "spool")) {
        if (entry.is_regular_file()) std::filesystem::resize_file(entry.path(), 1000);
    }
    intake->withdraw();
    EXPECT_TRUE(sum->spoilt());
    EXPECT_FALSE(sum->why_spoilt().message.empty());
}

TEST_P(IntakeTest, TheSumAddsWhatIsMissingAndNoticesWhatIsTooMuch) {
    const auto sum = new_sum();
    std::vector<Contribution> all;
    for (std::uint64_t i = 1; i <= 3; ++i) {
        const Sent sent = update(i);
        auto intake = begin("client-" + std::to_string(i), sent, i == 1 ? Entry{sum, i} : Entry{});
        ASSERT_TRUE(send(*intake, sent, sent.bytes.size(), 60'000));
        ASSERT_TRUE(intake->settle());
        all.push_back({intake->target().task, sent.claim.digest, sent.claim.bytes, i, GetParam()});
        if (i == 1) sum->count(all.back());
        intake->keep();
    }
    const auto missing = sum->missing(all);
    ASSERT_TRUE(missing);
    ASSERT_EQ(missing->size(), 2u);
    for (const Contribution& one : *missing) ASSERT_TRUE(sum->add(one, spool_));
    EXPECT_EQ(sum->total_weight(), 6u);
    const auto fresh = new_sum();
    const auto everything = fresh->missing({all[2], all[0], all[1]});
    for (const Contribution& one : *everything) ASSERT_TRUE(fresh->add(one, spool_));
    EXPECT_EQ(mean_of(sum, 6), mean_of(fresh, 6));
    EXPECT_EQ(sum->missing(all)->size(), 0u);
    EXPECT_FALSE(sum->missing({all[0], all[1]}));
    EXPECT_TRUE(sum->spoilt());
}

INSTANTIATE_TEST_SUITE_P(Codecs, IntakeTest,
                         ::testing::Values(codec::CodecId::None, codec::CodecId::Deadzone),
                         [](const auto& codec) { return std::string(codec::name(codec.param)); });

}  // namespace
}  // namespace fedllm::server::engine
