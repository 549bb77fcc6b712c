#include "server/aggregate/accumulator.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>
#include <thread>

#include "common/base/philox.hpp"
#include "common/crypto/sha256.hpp"
#include "common/job/job_spec.hpp"
#include "server/aggregate/strategy.hpp"

namespace fedllm::server::aggregate {
namespace {

struct Contribution {
    std::vector<float> values;
    std::uint64_t weight;
};

// Values of many magnitudes up to `bound`, both signs, some of them zero, subnormal or exactly the bound.
std::vector<Contribution> contributions(std::uint64_t seed, std::size_t count, std::size_t elements,
                                        float bound, std::uint64_t weight_max) {
    Rng rng(seed, "contributions");
    std::vector<Contribution> all(count);
    for (Contribution& one : all) {
        one.weight = 1 + rng.below(weight_max);
        one.values.resize(elements);
        for (float& value : one.values) {
            value = bound * rng.uniform(-1.0f, 1.0f) * std::ldexp(1.0f, -static_cast<int>(rng.below(60)));
        }
        one.values[0] = rng.below(2) ? bound : -bound;
        one.values[1] = 1e-42f;
        one.values[2] = -0.0f;
    }
    return all;
}

std::uint64_t total_weight(const std::vector<Contribution>& all) {
    return std::accumulate(all.begin(), all.end(), std::uint64_t{0},
                           [](std::uint64_t sum, const Contribution& one) { return sum + one.weight; });
}

// Adds in pieces whose borders differ from client to client, as chunks from the network do.
void add_in_pieces(Accumulator& sum, const Contribution& one, std::size_t piece) {
    for (std::size_t at = 0; at < one.values.size(); at += piece) {
        const std::size_t n = std::min(piece, one.values.size() - at);
        sum.add(at, std::span(one.values).subspan(at, n), one.weight);
    }
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(Accumulator, MeanIsTheSameToTheBitInEveryOrderAndChunking) {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
        auto all = contributions(seed, 9, 101, 10.0f, 100'000);
        const FixedPoint scale = *FixedPoint::choose(10.0, 9.0 * 100'000);
        std::vector<float> first, mean(101);
        Rng rng(seed, "shuffle");
        for (int trial = 0; trial < 10; ++trial) {
            Accumulator sum(101, scale);
            for (const Contribution& one : all) add_in_pieces(sum, one, 1 + rng.below(101));
            sum.mean(mean, total_weight(all));
            if (trial == 0) first = mean;
            ASSERT_TRUE(same_bits(first, mean)) << "seed " << seed << ", trial " << trial;
            for (std::size_t i = all.size() - 1; i > 0; --i) std::swap(all[i], all[rng.below(i + 1)]);
        }
    }
}

TEST(Accumulator, WhatIsWithdrawnLeavesNoTrace) {
    const auto all = contributions(3, 6, 64, 5.0f, 1000);
    const FixedPoint scale = *FixedPoint::choose(5.0, 4000);
    const std::vector<Contribution> kept(all.begin(), all.begin() + 4);
    Accumulator with(64, scale), without(64, scale);
    for (const Contribution& one : all) add_in_pieces(with, one, 7);
    for (std::size_t i = 4; i < 6; ++i) with.subtract(0, all[i].values, all[i].weight);
    for (const Contribution& one : kept) add_in_pieces(without, one, 64);
    std::vector<float> a(64), b(64);
    with.mean(a, total_weight(kept));
    without.mean(b, total_weight(kept));
    EXPECT_TRUE(same_bits(a, b));
}

// 100 arrival orders, cut differently, on 1 to 8 threads that share every stripe; a withdrawn upload in
// between.
TEST(Accumulator, OneDigestInHundredShuffledOrdersOnOneToEightThreads) {
    constexpr std::size_t kElements = Accumulator::kStripeElements + 1001, kClients = 12;
    for (const SumBits bits : {SumBits::Bits64, SumBits::Bits32}) {
        const auto all = contributions(7, kClients, kElements, 1.0f, 3);
        const auto withdrawn = contributions(8, 1, kElements, 1.0f, 3).front();
        const FixedPoint scale = *FixedPoint::choose(1.0, 3.0 * kClients, bits);
        std::string expected;
        for (std::uint64_t trial = 0; trial < 100; ++trial) {
            Accumulator sum(kElements, scale, bits);
            std::vector<std::size_t> order(kClients + 1);
            std::iota(order.begin(), order.end(), 0);
            Rng rng(trial, "order");
            for (std::size_t i = kClients; i > 0; --i) std::swap(order[i], order[rng.below(i + 1)]);
            std::atomic<std::size_t> next = 0;
            const auto client = [&] {
                for (std::size_t at = next++; at < order.size(); at = next++) {
                    const bool good = order[at] < kClients;
                    const Contribution& one = good ? all[order[at]] : withdrawn;
                    add_in_pieces(sum, one, 500 + 777 * order[at]);
                    if (!good) sum.subtract(0, one.values, one.weight);
                }
            };
            std::vector<std::thread> threads;
            for (std::uint64_t i = 0; i < 1 + trial % 8; ++i) threads.emplace_back(client);
            for (std::thread& thread : threads) thread.join();
            std::vector<float> mean(kElements);
            sum.mean(mean, total_weight(all));
            const std::string digest = crypto::to_hex(crypto::sha256(std::as_bytes(std::span(mean))));
            if (trial == 0) expected = digest;
            ASSERT_EQ(digest, expected) << "trial " << trial;
        }
    }
}

// Vectors divide, convert and round as one value at a time does: sums near every power of two, both signs.
TEST(Accumulator, MeansAreRoundedOnceWhateverTheVectorWidth) {
    Rng rng(11, "means");
    for (const SumBits bits : {SumBits::Bits64, SumBits::Bits32}) {
        const FixedPoint scale{24};
        constexpr std::size_t kElements = 1027;
        Accumulator sum(kElements, scale, bits);
        std::vector<std::int64_t> exact(kElements);
        for (std::size_t i = 0; i < kElements; ++i) {
            const auto value =
                static_cast<float>(std::ldexp(rng.uniform(-1.0f, 1.0f), 1 - static_cast<int>(i % 24)));
            const std::uint64_t weight =
                1 + rng.below(bits == SumBits::Bits64 ? (std::uint64_t{1} << 36) : 32);
            sum.add(i, std::span(&value, 1), weight);
            exact[i] =
                std::llrint(std::ldexp(static_cast<double>(value), 24)) * static_cast<std::int64_t>(weight);
        }
        std::vector<float> mean(kElements);
        sum.mean(mean, 77);
        for (std::size_t i = 0; i < kElements; ++i) {
            ASSERT_EQ(mean[i], static_cast<float>(static_cast<double>(exact[i]) / (0x1p24 * 77))) << i;
        }
    }
}

// Where 32 bits suffice they hold what 64 would, on the coarser scale: the same integers.
TEST(Accumulator, NarrowSumsAreTheSameIntegersAsWideOnes) {
    const auto all = contributions(5, 8, 103, 1.0f, 4);
    const FixedPoint scale = *FixedPoint::choose(1.0, 8 * 4, SumBits::Bits32);
    EXPECT_EQ(scale.fraction_bits, 25);
    Accumulator wide(103, scale), narrow(103, scale, SumBits::Bits32);
    for (const Contribution& one : all) {
        add_in_pieces(wide, one, 13);
        add_in_pieces(narrow, one, 21);
    }
    std::vector<float> a(103), b(103);
    wide.mean(a, total_weight(all));
    narrow.mean(b, total_weight(all));
    EXPECT_TRUE(same_bits(a, b));
}

// More than the scale was chosen for may pass through, as long as it is withdrawn again: the sum is a ring.
TEST(Accumulator, OverflowOnTheWayCancels) {
    const FixedPoint scale = *FixedPoint::choose(1.0, 1.0);
    Accumulator sum(1, scale);
    const std::vector<float> one{1.0f}, half{0.5f};
    const std::uint64_t heavy = std::uint64_t{1} << 40;
    sum.add(0, one, heavy);
    sum.add(0, half, 1);
    sum.subtract(0, one, heavy);
    std::vector<float> mean(1);
    sum.mean(mean, 1);
    EXPECT_EQ(mean[0], 0.5f);
}

TEST(Accumulator, ErrorKeepsWithinTheStatedBound) {
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
        for (const std::uint64_t weight_max : {std::uint64_t{1}, std::uint64_t{1'000'000'000}}) {
            const auto all = contributions(seed, 12, 97, 2.0f, weight_max);
            const auto weights = total_weight(all);
            const FixedPoint scale = *FixedPoint::choose(2.0, 12.0 * static_cast<double>(weight_max));
            Accumulator sum(97, scale);
            for (const Contribution& one : all) sum.add(0, one.values, one.weight);
            std::vector<float> mean(97);
            sum.mean(mean, weights);
            for (std::size_t i = 0; i < mean.size(); ++i) {
                long double exact = 0;
                for (const Contribution& one : all)
                    exact += static_cast<long double>(one.values[i]) * one.weight;
                exact /= weights;
                const double bound = std::ldexp(1.0, -scale.fraction_bits - 1) +
                                     std::abs(static_cast<double>(exact)) * (0x1p-24 + 0x1p-51);
                EXPECT_LE(std::abs(static_cast<double>(mean[i] - exact)), bound) << "element " << i;
            }
        }
    }
}

// Each value is rounded to the nearest multiple of 2^-bits, ties to even: what llrint does.
TEST(Accumulator, RoundsLikeLlrint) {
    const FixedPoint scale{24};
    for (const double units : {0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.25, 0.75, 1e6 + 0.5, -3.0}) {
        const auto value = static_cast<float>(std::ldexp(units, -24));
        Accumulator sum(1, scale);
        sum.add(0, std::vector<float>{value}, 1);
        std::vector<float> mean(1);
        sum.mean(mean, 1);
        const auto expected = static_cast<double>(std::llrint(std::ldexp(static_cast<double>(value), 24)));
        EXPECT_EQ(static_cast<double>(mean[0]), std::ldexp(expected, -24)) << units;
    }
}

TEST(FixedPoint, TakesTheFinestScaleThatCannotOverflow) {
    for (const double bound : {1e-6, 0.3, 1.0, 10.0, 1e4}) {
        for (const double weights : {1.0, 3.0, 1e6, 1e7}) {
            const auto scale = FixedPoint::choose(bound, weights);
            if (bound * weights > 0x1p37) {
                EXPECT_FALSE(scale);
                continue;
            }
            ASSERT_TRUE(scale) << bound << " " << weights;
            EXPECT_LE(bound * weights * scale->scale() + weights / 2, 0x1p62);
            EXPECT_LE(bound * scale->scale(), 0x1p50);
            const double finer = 2 * scale->scale();
            EXPECT_TRUE(bound * weights * finer > 0x1p61 || bound * finer > 0x1p50);
        }
    }
}

TEST(FixedPoint, NarrowSumsStayBelowTwoToThe31) {
    for (const double bound : {1e-6, 0.3, 1.0, 4.0, 64.0}) {
        for (const double weights : {1.0, 3.0, 16.0, 1e6}) {
            const auto scale = FixedPoint::choose(bound, weights, SumBits::Bits32);
            ASSERT_EQ(scale.has_value(), bound * weights <= 64) << bound << " " << weights;
            if (!scale) continue;
            EXPECT_GT(bound * weights * scale->scale(), 0x1p29);
            EXPECT_LT(bound * weights * scale->scale() + weights / 2, 0x1p31);
        }
    }
    const std::string message = FixedPoint::choose(10, 1e6, SumBits::Bits32).error().message;
    EXPECT_NE(message.find("32-bit"), std::string::npos) << message;
}

TEST(FixedPoint, RefusesWhatWouldOverflowOrMakesNoSense) {
    EXPECT_TRUE(FixedPoint::choose(0x1p7, 0x1p30));
    EXPECT_EQ(FixedPoint::choose(0x1p7, 0x1.1p30).error().code, Errc::InvalidArgument);
    EXPECT_FALSE(FixedPoint::choose(0, 1));
    EXPECT_FALSE(FixedPoint::choose(-1, 1));
    EXPECT_FALSE(FixedPoint::choose(NAN, 1));
    EXPECT_FALSE(FixedPoint::choose(1, INFINITY));
    EXPECT_FALSE(FixedPoint::choose(1, 0));
}

// A job is refused exactly when the accumulator could not hold its round.
TEST(FixedPoint, TheJobsCheckIsTheSameRule) {
    const auto job = [](std::uint64_t samples_max) {
        return job::parse_job("name: x\nbase_model: y\nclients_per_round: 1024\nsamples_max: " +
                                  std::to_string(samples_max) + "\nupdate:\n  clip_norm: 1\n",
                              "job.yaml");
    };
    const auto fits = [](std::uint64_t samples_max) {
        return FixedPoint::choose(tensor::bound_with_slack(1), 1024.0 * static_cast<double>(samples_max))
            .has_value();
    };
    for (const std::uint64_t samples : {std::uint64_t{1} << 26, (std::uint64_t{1} << 27) - 20'000,
                                        std::uint64_t{1} << 27, std::uint64_t{1} << 28}) {
        const auto parsed = job(samples);
        EXPECT_EQ(parsed.has_value(), fits(samples)) << samples << (parsed ? "" : parsed.error().message);
    }
    EXPECT_NE(job(std::uint64_t{1} << 28).error().message.find("update.clip_norm"), std::string::npos);
    const auto narrow = [](const std::string& clip_norm) {
        return job::parse_job(
            "name: x\nbase_model: y\nclients_per_round: 16\nweighting: uniform\n"
            "aggregation:\n  sum_bits: 32\nupdate:\n  clip_norm: " +
                clip_norm + "\n",
            "job.yaml");
    };
    EXPECT_TRUE(narrow("3.9"));
    const std::string message = narrow("10").error().message;
    EXPECT_NE(message.find("aggregation.sum_bits"), std::string::npos) << message;
    EXPECT_NE(message.find("sum_bits: 64"), std::string::npos) << message;
}

TEST(FedAvg, AddsTheScaledMean) {
    std::vector<float> global{1.0f, -2.0f, 0.5f};
    const std::vector<float> mean{0.5f, 0.25f, -1.0f};
    fed_avg(global, mean, 1.0);
    EXPECT_EQ(global, (std::vector<float>{1.5f, -1.75f, -0.5f}));
    fed_avg(global, mean, 0.5);
    EXPECT_EQ(global, (std::vector<float>{1.75f, -1.625f, -1.0f}));
    Rng rng(1, "fed_avg");
    std::vector<float> many(1003), updates(1003);
    for (float& value : many) value = rng.normal();
    for (float& value : updates) value = 1e-3f * rng.normal();
    const auto before = many;
    fed_avg(many, updates, 0.7);
    for (std::size_t i = 0; i < many.size(); ++i) {
        const double change = 0.7 * static_cast<double>(updates[i]);
        ASSERT_EQ(many[i], static_cast<float>(static_cast<double>(before[i]) + change)) << i;
    }
    fed_avg(global, mean, 0.0);
    EXPECT_EQ(global, (std::vector<float>{1.75f, -1.625f, -1.0f}));
}

// A round after another in the same memory, whatever ranges each touches.
TEST(Accumulator, ClearedSumIsAsNew) {
    constexpr std::uint64_t kElements = 3 * Accumulator::kStripeElements + 100;
    for (const auto bits : {SumBits::Bits64, SumBits::Bits32}) {
        const FixedPoint scale = *FixedPoint::choose(1.0, 8.0, bits);
        Accumulator reused(kElements, scale, bits);
        const std::vector<float> ones(kElements, 1.0f);
        reused.add(0, ones, 3);
        reused.clear();
        std::vector<float> mean(kElements, 9.0f);
        reused.mean(mean, 1);
        EXPECT_EQ(mean, std::vector<float>(kElements)) << "nothing was added since";
        const std::uint64_t first = Accumulator::kStripeElements - 10;
        Accumulator fresh(kElements, scale, bits);
        for (Accumulator* const sum : {&reused, &fresh}) {
            sum->add(first, std::span(ones).first(20), 2);
            sum->add(kElements - 5, std::span(ones).first(5), 1);
        }
        std::vector<float> expected(kElements);
        reused.mean(mean, 2);
        fresh.mean(expected, 2);
        EXPECT_EQ(mean, expected);
        EXPECT_EQ(mean[first], 1.0f);
        EXPECT_EQ(mean[kElements - 1], 0.5f);
    }
}

}  // namespace
}  // namespace fedllm::server::aggregate
