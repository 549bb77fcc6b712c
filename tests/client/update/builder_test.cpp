#include "client/update/builder.hpp"

#include <gtest/gtest.h>

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

TEST(Builder, OneSegmentIsSentInTurnAndTheOthersWait) {
    const tensor::ParamSet start = make_set({{"a", {1000}}});
    const tensor::ParamSet trained = random_set("segments");
    BuildRequest request{.spec = {.clip_norm = 1000, .codec = {}, .segments = 3}};
    for (std::uint32_t turn = 0; turn < 6; ++turn) {
        request.turn = turn;
        const auto update = build(start, trained, request);
        ASSERT_TRUE(update);
        EXPECT_EQ(update->quantisation_error, 0) << "what was sent was sent exactly";
        const auto sent = decode(*update);
        std::size_t carried = 0;
        for (std::size_t i = 0; i < sent.size(); ++i) {
            const bool mine = i >= 1000 * (turn % 3) / 3 && i < 1000 * (turn % 3 + 1) / 3;
            carried += mine;
            EXPECT_EQ(sent[i], mine ? trained.values()[i] : 0.0F) << i;
            EXPECT_EQ(update->residual.values()[i], mine ? 0.0F : trained.values()[i]) << i;
        }
        EXPECT_NEAR(static_cast<double>(carried), 1000.0 / 3, 1);
        double left = 0;
        for (const float value : update->residual.values()) left += double{value} * value;
        EXPECT_NEAR(update->residual_norm, std::sqrt(left), 1e-9);
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

}  // namespace
}  // namespace fedllm::client::update
