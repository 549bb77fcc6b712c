#include "client/update/builder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/base/philox.hpp"
#include "common/crypto/sha256.hpp"

namespace fedllm::client::update {
namespace {

tensor::ParamSet make_set(std::vector<tensor::TensorSpec> specs) {
    return tensor::ParamSet(tensor::Manifest::create(std::move(specs)).value());
}

std::vector<float> decode(const EncodedUpdate& update) {
    std::vector<float> values(update.bytes.size() / sizeof(float));
    std::memcpy(values.data(), update.bytes.data(), update.bytes.size());
    return values;
}

double norm_of(const std::vector<float>& values) {
    double sum = 0;
    for (const float value : values) sum += double{value} * value;
    return std::sqrt(sum);
}

TEST(Builder, EncodesTheDifference) {
    tensor::ParamSet start = make_set({{"a", {2}}, {"b", {1}}});
    tensor::ParamSet trained = start;
    start.values()[0] = 1.0F;
    trained.values()[0] = 4.0F;
    trained.values()[2] = -4.0F;
    const auto update = build(start, trained, {.spec = {.clip_norm = 10, .codec = {}}});
    ASSERT_TRUE(update);
    EXPECT_EQ(decode(*update), (std::vector<float>{3.0F, 0.0F, -4.0F}));
    EXPECT_DOUBLE_EQ(update->norm, 5.0);
    EXPECT_EQ(update->digest, crypto::to_hex(crypto::sha256(update->bytes)));
}

TEST(Builder, ClipsToTheBoundAsTheServerMeasuresIt) {
    const tensor::ParamSet start = make_set({{"a", {10'000}}});
    Rng rng(7, "clip");
    for (const double bound : {1e-6, 0.37, 1.0, 3.0, 10.0}) {
        tensor::ParamSet trained = start;
        for (float& value : trained.values()) value = rng.normal();
        const auto update = build(start, trained, {.spec = {.clip_norm = bound, .codec = {}}});
        ASSERT_TRUE(update);
        EXPECT_NEAR(update->norm, 100, 5) << "the norm before clipping";
        EXPECT_LE(norm_of(decode(*update)), bound);
        EXPECT_GT(norm_of(decode(*update)), bound * (1 - 1e-5));
    }
}

// A codec of few levels decodes values that shrink a little to what it decoded before.
TEST(Builder, ClipsWhatEveryCodecDecodes) {
    const tensor::ParamSet start = make_set({{"a", {1'000}}});
    const codec::Layout layout = codec::layout_of(start.manifest());
    Rng rng(7, "every codec");
    for (const codec::CodecId id : {codec::CodecId::Bf16, codec::CodecId::Int8, codec::CodecId::Int4,
                                    codec::CodecId::Sign, codec::CodecId::TopK, codec::CodecId::Deadzone}) {
        for (std::uint64_t key = 0; key < 200; ++key) {
            tensor::ParamSet trained = start;
            for (float& value : trained.values()) value = rng.normal();
            const codec::Rounding rounding =
                key % 2 == 0 ? codec::Rounding::Nearest : codec::Rounding::Stochastic;
            const auto update =
                build(start, trained,
                      {.spec = {.clip_norm = 1, .codec = {.id = id, .rounding = rounding}}, .key = key});
            ASSERT_TRUE(update) << update.error().message;
            double squares = 0;
            const auto sink = [&](std::uint64_t, std::span<const float> values) {
                for (const float value : values) squares += double{value} * value;
            };
            ASSERT_TRUE(codec::decode(id, layout, update->bytes, sink));
            EXPECT_LE(std::sqrt(squares), 1 + 1e-12);
            EXPECT_GT(std::sqrt(squares), id == codec::CodecId::Int4 ? 0.9 : 0.1) << codec::name(id);
        }
    }
}

TEST(Builder, LeavesWhatIsWithinTheBoundUntouched) {
    const tensor::ParamSet start = make_set({{"a", {1}}});
    tensor::ParamSet trained = start;
    trained.values()[0] = 0.1F;
    const auto update = build(start, trained, {.spec = {.clip_norm = 1, .codec = {}}});
    ASSERT_TRUE(update);
    EXPECT_EQ(decode(*update), std::vector<float>{0.1F});
}

TEST(Builder, RefusesNanAndInfinityNamingTheTensor) {
    const tensor::ParamSet start = make_set({{"first", {2}}, {"second", {2}}});
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        tensor::ParamSet trained = start;
        trained.values()[2] = bad;
        const auto update = build(start, trained, {});
        ASSERT_FALSE(update);
        EXPECT_EQ(update.error().code, Errc::NotFinite);
        EXPECT_NE(update.error().message.find("second"), std::string::npos) << update.error().message;
    }
}

TEST(Builder, RefusesOtherShapes) {
    const auto update = build(make_set({{"a", {2}}}), make_set({{"a", {3}}}), {});
    ASSERT_FALSE(update);
    EXPECT_EQ(update.error().code, Errc::ManifestMismatch);
}

tensor::ParamSet random_set(const char* stream, std::size_t elements = 1000) {
    tensor::ParamSet set = make_set({{"a", {elements}}});
    Rng rng(7, stream);
    for (float& value : set.values()) value = rng.normal();
    return set;
}

// Groups of 500, 300 and 200 elements, each in two layers, make two segments of 500.
TEST(Builder, OneSegmentIsSentInTurnAndTheOthersWait) {
    const tensor::ParamSet start = make_set(
        {{"0.b", {250}}, {"0.a", {150}}, {"0.c", {100}}, {"1.b", {250}}, {"1.a", {150}}, {"1.c", {100}}});
    tensor::ParamSet trained = start;
    Rng rng(7, "segments");
    for (float& value : trained.values()) value = rng.normal();
    BuildRequest request{.spec = {.clip_norm = 1000, .codec = {}, .segments = 2}};
    for (std::uint32_t turn = 0; turn < 4; ++turn) {
        request.turn = turn;
        const auto update = build(start, trained, request);
        ASSERT_TRUE(update);
        EXPECT_EQ(update->quantisation_error, 0) << "what was sent was sent exactly";
        std::vector<float> expected(1000), waiting(1000);
        double left = 0;
        for (std::size_t i = 0; i < 1000; ++i) {
            const bool mine = (i % 500 < 250) == (turn % 2 == 0);
            (mine ? expected : waiting)[i] = trained.values()[i];
            left += double{waiting[i]} * waiting[i];
        }
        EXPECT_EQ(decode(*update), expected);
        EXPECT_TRUE(std::equal(waiting.begin(), waiting.end(), update->residual.values().begin()));
        EXPECT_NEAR(update->residual_norm, std::sqrt(left), 1e-9);
    }
    request.spec.segments = 200;  // three groups: never an empty update
    for (request.turn = 0; request.turn < 4; ++request.turn) {
        EXPECT_GT(norm_of(decode(*build(start, trained, request))), 0);
    }
}

TEST(Builder, TheResidualIsAddedToTheNextUpdate) {
    const tensor::ParamSet start = make_set({{"a", {1000}}});
    const tensor::ParamSet trained = random_set("next");
    const tensor::ParamSet residual = random_set("residual");
    const auto update =
        build(start, trained, {.spec = {.clip_norm = 1000, .codec = {}}, .residual = residual.values()});
    ASSERT_TRUE(update);
    const auto sent = decode(*update);
    for (std::size_t i = 0; i < sent.size(); ++i) {
        EXPECT_EQ(sent[i], trained.values()[i] + residual.values()[i]);
    }
}

TEST(Builder, KeepsNoResidualOfWhatIsSentWholeOrUnwanted) {
    const tensor::ParamSet trained = random_set("whole");
    for (const job::UpdateSpec& spec :
         {job::UpdateSpec{.clip_norm = 1000, .codec = {}},
          job::UpdateSpec{.clip_norm = 1000, .codec = {}, .error_feedback = false}}) {
        EXPECT_FALSE(keeps_residual(spec));
        const auto update = build(make_set({{"a", {1000}}}), trained, {.spec = spec});
        ASSERT_TRUE(update);
        EXPECT_TRUE(update->residual.values().empty());
    }
}

// Ten equal updates: with error feedback the server's sum is off by the last residual alone; without it, by
// ten errors.
TEST(Builder, ErrorFeedbackRepaysWhatTheCodecLoses) {
    const tensor::ParamSet start = make_set({{"a", {1000}}});
    const tensor::ParamSet trained = random_set("feedback");
    const codec::Layout layout = codec::layout_of(start.manifest());
    for (const bool feedback : {true, false}) {
        BuildRequest request{.spec = {.clip_norm = 1000, .codec = {.id = codec::CodecId::Deadzone}}};
        request.spec.error_feedback = feedback;
        tensor::ParamSet residual;
        std::vector<double> missing(1000);
        double error = 0;
        for (int round = 0; round < 10; ++round) {
            request.residual = residual.values();
            auto update = build(start, trained, request);
            ASSERT_TRUE(update);
            error = update->quantisation_error;
            for (std::size_t i = 0; i < missing.size(); ++i) missing[i] += trained.values()[i];
            const auto sink = [&](std::uint64_t first, std::span<const float> values) {
                for (std::size_t i = 0; i < values.size(); ++i) missing[first + i] -= values[i];
            };
            ASSERT_TRUE(codec::decode(codec::CodecId::Deadzone, layout, update->bytes, sink));
            residual = std::move(update->residual);
        }
        double square = 0;
        for (const double value : missing) square += value * value;
        const double one = std::sqrt(1000.0);  // about the norm of one update
        EXPECT_GT(error, 0.1);
        if (feedback) {
            double left = 0;
            for (const float value : residual.values()) left += double{value} * value;
            EXPECT_NEAR(std::sqrt(square), std::sqrt(left), 1e-3);
            EXPECT_LT(std::sqrt(square), 2.5 * one);
        } else {
            EXPECT_GT(std::sqrt(square), 5 * one);
        }
    }
}

// Zeros that stand for the other segments, or for what the link has no room for, cost nothing.
TEST(Builder, SegmentsAndSlowLinksTakeFewerBytes) {
    const tensor::ParamSet start =
        make_set({{"a", {50'000}}, {"b", {50'000}}, {"c", {50'000}}, {"d", {50'000}}});
    tensor::ParamSet trained = start;
    Rng rng(7, "bytes");
    for (float& value : trained.values()) value = rng.normal();
    BuildRequest request{.spec = {.clip_norm = 1000, .codec = {.id = codec::CodecId::Deadzone}}};
    const auto whole = build(start, trained, request);
    request.spec.segments = 4;
    const auto segment = build(start, trained, request);
    ASSERT_TRUE(whole && segment);
    const auto ratio = static_cast<double>(segment->bytes.size()) / static_cast<double>(whole->bytes.size());
    EXPECT_NEAR(ratio, 0.25, 0.03);
    EXPECT_NEAR(segment->quantisation_error, whole->quantisation_error, 0.01);

    request.spec.segments = 1;
    request.upload_bytes_max = static_cast<double>(whole->bytes.size()) / 2;
    const auto slow = build(start, trained, request);
    ASSERT_TRUE(slow);
    EXPECT_NEAR(static_cast<double>(slow->bytes.size()) / request.upload_bytes_max, 1, 0.1);
    request.upload_bytes_max = static_cast<double>(whole->bytes.size()) * 2;
    EXPECT_EQ(build(start, trained, request)->bytes.size(), whole->bytes.size())
        << "the link is not the limit";
}

}  // namespace
}  // namespace fedllm::client::update
