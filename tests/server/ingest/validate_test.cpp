#include "server/ingest/validate.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "common/base/philox.hpp"
#include "server/ingest/scan.hpp"

namespace fedllm::server::ingest {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

tensor::Manifest manifest() {
    return *tensor::Manifest::create({{"a.lora_A.weight", {4, 8}}, {"a.lora_B.weight", {3, 4}}, {"c", {5}}});
}
UpdateRules rules() { return {.codec = codec::CodecId::None, .clip_norm = 10.0, .samples_max = 1000}; }
Claim claim() {
    Claim one;
    one.digest = std::string(64, 'a');
    one.bytes = 4 * manifest().elements();
    one.samples = 1000;
    one.tokens = 5000;
    one.train_loss = 3.5;
    one.eval_loss_sum = 12.0;
    one.eval_tokens = 4;
    return one;
}

Errc refusal(const Claim& one) {
    const auto result = check_claim(one, rules(), codec::layout_of(manifest()));
    return result ? Errc::Internal : result.error().code;
}

TEST(Claim, IsAcceptedUpToItsLimits) {
    Claim one = claim();
    EXPECT_TRUE(check_claim(one, rules(), codec::layout_of(manifest())));
    one.samples = 1;
    one.eval_tokens = 0;
    one.eval_loss_sum = 0;
    EXPECT_TRUE(check_claim(one, rules(), codec::layout_of(manifest())));
}

TEST(Claim, IsRefusedByName) {
    const double nan = std::nan("");
    const auto with = [](auto change) {
        Claim one = claim();
        change(one);
        return refusal(one);
    };
    EXPECT_EQ(with([](Claim& c) { c.samples = 1001; }), Errc::SampleCountLie);
    EXPECT_EQ(with([](Claim& c) { c.samples = 0; }), Errc::SampleCountLie);
    EXPECT_EQ(with([](Claim& c) { c.bytes += 1; }), Errc::ManifestMismatch);
    EXPECT_EQ(with([](Claim& c) { c.bytes -= 4; }), Errc::ManifestMismatch);
    EXPECT_EQ(with([](Claim& c) { c.digest = "../../etc/passwd"; }), Errc::Malformed);
    EXPECT_EQ(with([](Claim& c) { c.digest.pop_back(); }), Errc::Malformed);
    EXPECT_EQ(with([](Claim& c) { c.digest[5] = 'A'; }), Errc::Malformed);
    EXPECT_EQ(with([](Claim& c) { c.tokens = ~std::uint64_t{0}; }), Errc::Malformed);
    EXPECT_EQ(with([nan](Claim& c) { c.train_loss = nan; }), Errc::NotFinite);
    EXPECT_EQ(with([](Claim& c) { c.train_seconds = kInfinity; }), Errc::NotFinite);
    EXPECT_EQ(with([](Claim& c) { c.train_seconds = -1; }), Errc::Malformed);
    EXPECT_EQ(with([nan](Claim& c) { c.update_norm = nan; }), Errc::NotFinite);
    EXPECT_EQ(with([nan](Claim& c) { c.eval_loss_sum = nan; }), Errc::NotFinite);
    EXPECT_EQ(with([](Claim& c) { c.eval_tokens = 0; }), Errc::Malformed);
    EXPECT_EQ(with([](Claim& c) { c.codec = "zip"; }), Errc::Unsupported);
    EXPECT_EQ(with([nan](Claim& c) { c.quantisation_error = nan; }), Errc::NotFinite);
    EXPECT_EQ(with([](Claim& c) { c.residual_norm = -1; }), Errc::Malformed);
}

// Feeds the values in pieces; returns the first error.
Result<double> judge(const std::vector<float>& values, std::size_t piece) {
    const tensor::Manifest shapes = manifest();
    const auto bytes = *codec::encode({}, {{{values.size(), 0}}, values.size(), 1}, values, 0);
    UpdateValidator validator(shapes, codec::layout_of(shapes), rules().codec, rules().clip_norm);
    std::uint64_t passed = 0;
    const auto good = [&](std::uint64_t first, std::span<const float> slice) {
        EXPECT_EQ(first, passed);
        for (const float value : slice) EXPECT_EQ(value, values[passed++]);
    };
    for (std::size_t at = 0; at < bytes.size(); at += piece) {
        const std::size_t n = std::min(piece, bytes.size() - at);
        FEDLLM_TRY_VOID(validator.feed(std::span(bytes).subspan(at, n), good));
    }
    FEDLLM_TRY_VOID(validator.finish());
    EXPECT_EQ(passed, values.size());
    return validator.norm();
}

TEST(UpdateValidator, PassesGoodValuesInPiecesOfAnySize) {
    std::vector<float> values(49);
    Rng rng(1, "good");
    double squares = 0;
    for (float& value : values) {
        value = rng.normal();
        squares += static_cast<double>(value) * value;
    }
    for (const std::size_t piece : {1, 2, 3, 4, 5, 7, 64, 196}) {
        const auto norm = judge(values, piece);
        ASSERT_TRUE(norm) << norm.error().message;
        EXPECT_NEAR(*norm, std::sqrt(squares), 1e-12);
    }
}

TEST(UpdateValidator, NamesTheTensorOfABadValueWhereverItIs) {
    const std::vector<std::string> names{"a.lora_A.weight", "a.lora_B.weight", "'c'"};
    for (const float bad : {std::nanf(""), kInfinity, -kInfinity, 10.1f, -1e30f}) {
        for (std::size_t at = 0; at < 49; ++at) {
            std::vector<float> values(49, 0.01f);
            values[at] = bad;
            for (const std::size_t piece : {3, 40, 196}) {
                const auto result = judge(values, piece);
                ASSERT_FALSE(result);
                EXPECT_EQ(result.error().code, std::isfinite(bad) ? Errc::OutOfBounds : Errc::NotFinite);
                const std::size_t tensor = at < 32 ? 0 : at < 44 ? 1 : 2;
                const std::string name = tensor == 2 ? "c" : names[tensor];
                EXPECT_NE(result.error().message.find(name), std::string::npos) << result.error().message;
            }
        }
    }
}

TEST(UpdateValidator, AllowsTheClipNormWithSlackAndNoMore) {
    const auto with_norm = [](double norm) {
        return std::vector<float>(49,
                                  static_cast<float>(norm / 7.0));  // 49 equal values: the norm is 7 of them
    };
    EXPECT_TRUE(judge(with_norm(10.0), 64));
    EXPECT_TRUE(judge(with_norm(10.0009), 64));
    const auto result = judge(with_norm(10.0011), 64);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Errc::OutOfBounds);
    EXPECT_NE(result.error().message.find("norm"), std::string::npos);
}

TEST(UpdateValidator, RefusesTooFewAndTooManyBytes) {
    EXPECT_EQ(judge(std::vector<float>(48, 0.0f), 10).error().code, Errc::ManifestMismatch);
    EXPECT_EQ(judge(std::vector<float>(50, 0.0f), 10).error().code, Errc::TooLarge);
}

// Against the plain loop, with a bad value at every place of a vector and of what is left over.
TEST(Scan, SeesEveryValue) {
    for (std::size_t count = 0; count <= 70; ++count) {
        std::vector<float> values(count);
        double expected = 0;
        for (std::size_t i = 0; i < count; ++i) {
            values[i] = 0.25f * static_cast<float>(i) - 3.0f;
            expected += static_cast<double>(values[i]) * values[i];
        }
        const Scan fine = scan(values, 20.0);
        EXPECT_TRUE(fine.within);
        EXPECT_DOUBLE_EQ(fine.square_sum, expected);
        for (std::size_t i = 0; i < count; ++i) {
            for (const float bad : {std::nanf(""), -20.01f, kInfinity}) {
                const float kept = std::exchange(values[i], bad);
                EXPECT_FALSE(scan(values, 20.0).within) << i << " of " << count << ": " << bad;
                values[i] = kept;
            }
        }
    }
}

}  // namespace
}  // namespace fedllm::server::ingest
