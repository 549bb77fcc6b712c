#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/tensor/dtype.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::tensor {
namespace {

TEST(DType, NamesRoundTrip) {
    for (const char* text : {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"}) {
        ASSERT_TRUE(dtype_named(text)) << text;
        EXPECT_EQ(name(*dtype_named(text)), text);
    }
    EXPECT_FALSE(dtype_named("F8_E4M3"));
    EXPECT_EQ(size_of(DType::BF16), 2u);
}

TEST(BF16, RoundsToNearestEven) {
    EXPECT_EQ(f32_to_bf16(1.0f), 0x3F80);
    EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3F808000u)), 0x3F80);  // tie: down to even
    EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3F818000u)), 0x3F82);  // tie: up to even
    EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3F808001u)), 0x3F81);
    EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7F80);  // overflows to infinity
    EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::numeric_limits<float>::quiet_NaN()))));
    for (std::uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
        const float value = bf16_to_f32(static_cast<std::uint16_t>(bits));
        if (std::isnan(value)) continue;
        EXPECT_EQ(f32_to_bf16(value), bits);
    }
}

TEST(F16, WidensEveryKindOfNumber) {
    EXPECT_EQ(f16_to_f32(0x3C00), 1.0f);
    EXPECT_EQ(f16_to_f32(0xC000), -2.0f);
    EXPECT_EQ(f16_to_f32(0x7BFF), 65504.0f);
    EXPECT_EQ(f16_to_f32(0x0001), 0x1p-24f);  // smallest subnormal
    EXPECT_EQ(f16_to_f32(0x03FF), 1023 * 0x1p-24f);
    EXPECT_TRUE(std::signbit(f16_to_f32(0x8000)));
    EXPECT_TRUE(std::isinf(f16_to_f32(0x7C00)));
    EXPECT_TRUE(std::isnan(f16_to_f32(0x7E00)));
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
        const float value = f16_to_f32(static_cast<std::uint16_t>(bits));
        if (std::isnan(value)) continue;
        EXPECT_EQ(f32_to_f16(value), bits);
    }
    EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(std::numeric_limits<float>::quiet_NaN()))));
    EXPECT_EQ(f32_to_f16(1.0f + 0x1p-11f), 0x3C00);  // tie: down to even
    EXPECT_EQ(f32_to_f16(1.0f + 0x3p-11f), 0x3C02);  // tie: up to even
    EXPECT_EQ(f32_to_f16(1.0f + 0x1.01p-11f), 0x3C01);
    EXPECT_EQ(f32_to_f16(65519.0f), 0x7BFF);
    EXPECT_EQ(f32_to_f16(-65520.0f), 0xFC00);
    EXPECT_EQ(f32_to_f16(0x1p-25f), 0);  // tie between 0 and the smallest: to even
    EXPECT_EQ(f32_to_f16(0x1.8p-24f), 2);
    EXPECT_EQ(f32_to_f16(-0x1.ff8p-15f), 0x83FF);
    EXPECT_EQ(f32_to_f16(0x1.fffp-15f), 0x0400);  // rounds up out of the subnormals
}

TEST(Manifest, LaysTensorsOutInOrder) {
    const auto manifest = Manifest::create({{"a", {2, 3}}, {"b", {4}}});
    ASSERT_TRUE(manifest);
    EXPECT_EQ(manifest->elements(), 10u);
    EXPECT_EQ(manifest->offset(1), 6u);
    EXPECT_EQ(manifest->find("b"), 1u);
    EXPECT_FALSE(manifest->find("c"));
    ParamSet params(*manifest);
    params.tensor(1)[0] = 7;
    EXPECT_EQ(params.values()[6], 7.0f);
    EXPECT_EQ(params.tensor(1).size(), 4u);
}

TEST(Manifest, RefusesNonsense) {
    const std::uint64_t huge = std::uint64_t{1} << 40;
    EXPECT_FALSE(Manifest::create({}));
    EXPECT_FALSE(Manifest::create({{"", {1}}}));
    EXPECT_FALSE(Manifest::create({{"a", {}}}));
    EXPECT_FALSE(Manifest::create({{"a", {3, 0}}}));
    EXPECT_FALSE(Manifest::create({{"a", {huge, huge}}}));
    EXPECT_FALSE(Manifest::create({{"a", {huge}}, {"b", {1}}}));
    EXPECT_FALSE(Manifest::create({{"a", {1, 1, 1, 1, 1, 1, 1, 1, 1}}}));
    EXPECT_FALSE(Manifest::create({{"a", {1}}, {"a", {1}}}));
}

TEST(Manifest, DifferenceNamesTheFirstTensorThatDiffers) {
    const auto expected = Manifest::create({{"a", {2}}, {"b", {3}}}).value();
    EXPECT_EQ(difference(expected, expected), "");
    EXPECT_EQ(difference(expected, Manifest::create({{"a", {2}}, {"b", {4}}}).value()),
              "tensor 1: expected b [3], got b [4]");
    EXPECT_EQ(difference(expected, Manifest::create({{"a", {2}}}).value()), "expected 2 tensors, got 1");
}

}  // namespace
}  // namespace fedllm::tensor
