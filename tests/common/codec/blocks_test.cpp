#include "common/codec/blocks.hpp"

#include <gtest/gtest.h>

#include "common/codec/container.hpp"
#include "common/codec/crc32c.hpp"
#include "common/codec/topk.hpp"
#include "tests/common/codec/support.hpp"

namespace fedllm::codec {
namespace {

using namespace test;

const std::vector<float> kExample{1.0f, -2.0f, 0.5f};

// Golden bytes, whole: header, segment, payload. The payloads are the worked examples of blocks.hpp.
TEST(BlockFormats, GoldenBytes) {
    const auto golden = [](CodecId codec) { return hex(*encode({.id = codec}, flat(3), kExample, 0)); };
    const auto payload = [](const std::string& all) { return all.substr(2 * (24 + 8)); };
    EXPECT_EQ(golden(CodecId::Int4).substr(0, 48),
              "464C435501030100"
              "0300000000000000"
              "00000000"
              "255F50F9");
    EXPECT_EQ(payload(golden(CodecId::Bf16)), "803F00C0003F");
    EXPECT_EQ(payload(golden(CodecId::Int4)), "933E1B0A");
    EXPECT_EQ(payload(golden(CodecId::Int8)), "823C3F8220");
    EXPECT_EQ(payload(golden(CodecId::Sign)), "953F02");
}

// Rounding to the nearest: at most half a scale away; scales are at most 2^-7 above max / levels.
TEST(BlockFormats, ErrorsKeepWithinHalfAScale) {
    const Layout layout = mixed(10'000);
    const auto values = deltas(layout);
    for (const auto& [codec, levels] : {std::pair{CodecId::Int8, 127.0}, std::pair{CodecId::Int4, 7.0}}) {
        const auto back = *decoded(codec, layout, *encode({.id = codec}, layout, values, 0));
        for (std::size_t begin = 0; begin < values.size(); begin += 64) {
            double largest = 0, error = 0;
            for (std::size_t i = begin; i < std::min(begin + 64, values.size()); ++i) {
                largest = std::max(largest, std::abs(static_cast<double>(values[i])));
                error = std::max(error, std::abs(static_cast<double>(values[i]) - back[i]));
            }
            EXPECT_LE(error, largest / levels * (1 + 0x1p-7) * 0.5 * (1 + 1e-5))
                << name(codec) << " " << begin;
        }
    }
    const auto back = *decoded(CodecId::Bf16, layout, *encode({.id = CodecId::Bf16}, layout, values, 0));
    for (std::size_t i = 0; i < values.size(); ++i) {
        EXPECT_LE(std::abs(values[i] - back[i]), std::abs(values[i]) * 0x1p-8f);
    }
}

// The mean over many keys is the value itself: |mean - x| <= 5 standard errors of at most half a scale each.
TEST(BlockFormats, StochasticRoundingHasNoBiasAndDependsOnTheKeyAlone) {
    const Layout layout = flat(64);
    const auto values = deltas(layout);
    const Spec spec{.id = CodecId::Int4, .rounding = Rounding::Stochastic};
    EXPECT_EQ(hex(*encode(spec, layout, values, 5)), hex(*encode(spec, layout, values, 5)));
    EXPECT_NE(hex(*encode(spec, layout, values, 5)), hex(*encode(spec, layout, values, 6)));
    constexpr int kKeys = 2000;
    std::vector<double> sums(64);
    for (int key = 0; key < kKeys; ++key) {
        const auto back =
            *decoded(spec.id, layout, *encode(spec, layout, values, static_cast<std::uint64_t>(key)));
        for (std::size_t i = 0; i < 64; ++i) sums[i] += back[i];
    }
    double largest = 0;
    for (const float value : values) largest = std::max(largest, std::abs(static_cast<double>(value)));
    for (std::size_t i = 0; i < 64; ++i) {
        EXPECT_NEAR(sums[i] / kKeys, values[i], 5 * 0.5 * largest / 7 * 1.01 / std::sqrt(kKeys)) << i;
    }
}

// A payload of our own making, in a correct container.
std::vector<std::byte> wrapped(CodecId codec, std::uint64_t elements, const std::vector<unsigned>& payload,
                               const std::vector<unsigned>& parameters = {}) {
    std::vector<std::byte> bytes, inner;
    for (const unsigned byte : parameters) inner.push_back(static_cast<std::byte>(byte));
    append_header(bytes, codec, flat(elements), inner);
    const std::size_t begun = begin_segment(bytes);
    for (const unsigned byte : payload) bytes.push_back(static_cast<std::byte>(byte));
    end_segment(bytes, begun);
    return bytes;
}

TEST(BlockFormats, RefuseSymbolsAndScalesOutOfRange) {
    const auto code = [](CodecId codec, const std::vector<unsigned>& payload, std::uint64_t elements) {
        const auto result = decoded(codec, flat(elements), wrapped(codec, elements, payload));
        return result ? std::string("accepted") : result.error().message;
    };
    const auto has = [](const std::string& text, const char* part) {
        return text.find(part) != std::string::npos;
    };
    EXPECT_EQ(code(CodecId::Int8, {0x80, 0x3F, 1, 0x81}, 2), "accepted");
    EXPECT_TRUE(has(code(CodecId::Int8, {0x80, 0x3F, 1, 0x80}, 2), "-128"));
    EXPECT_TRUE(has(code(CodecId::Int8, {0x80, 0xBF, 1, 2}, 2), "scale"));
    EXPECT_TRUE(has(code(CodecId::Int8, {0x81, 0x7B, 1, 2}, 2), "scale"));
    EXPECT_TRUE(has(code(CodecId::Int8, {0xC0, 0x7F, 1, 2}, 2), "scale"));
    EXPECT_EQ(code(CodecId::Int4, {0x80, 0x3F, 0x08}, 1), "accepted");
    EXPECT_TRUE(has(code(CodecId::Int4, {0x80, 0x3F, 0x18}, 1), "nibble"));
    EXPECT_TRUE(has(code(CodecId::Int4, {0x80, 0x3F, 0x08}, 2), "nibble"));
    EXPECT_EQ(code(CodecId::Sign, {0x80, 0x3F, 0x03}, 2), "accepted");
    EXPECT_TRUE(has(code(CodecId::Sign, {0x80, 0x3F, 0x04}, 2), "beyond"));
    EXPECT_EQ(code(CodecId::Bf16, {0x7F, 0x7F}, 1), "accepted");
    EXPECT_TRUE(has(code(CodecId::Bf16, {0x80, 0x7F}, 1), "infinity"));
    EXPECT_TRUE(has(code(CodecId::Bf16, {0xC0, 0xFF}, 1), "NaN"));
}

TEST(TopK, WorkedExample) {
    const std::vector<float> values{0, 0, 3, 0, -1, 0};
    const Spec spec{.id = CodecId::TopK, .density = 0.34, .topk_values = TopKValues::Bf16};
    const auto bytes = *encode(spec, flat(6), values, 0);
    EXPECT_EQ(hex(bytes).substr(2 * 36),
              "02000000"
              "00"
              "0B"
              "404080BF");
    EXPECT_EQ(*decoded(CodecId::TopK, flat(6), bytes), values);
}

TEST(TopK, KeepsTheLargestAndOfEqualsTheFirst) {
    const Layout layout = mixed(400'000);
    auto values = deltas(layout);
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (i % 3 == 0) values[i] = i % 2 == 0 ? 3e-3f : -3e-3f;  // many equals at the threshold
    }
    for (const double density : {1e-6, 0.01, 0.3, 0.5, 1.0}) {
        const Spec spec{.id = CodecId::TopK, .density = density, .topk_values = TopKValues::Bf16};
        const auto back = *decoded(spec.id, layout, *encode(spec, layout, values, 0));
        std::vector<std::size_t> order(values.size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
        std::ranges::stable_sort(
            order, [&](std::size_t a, std::size_t b) { return std::abs(values[a]) > std::abs(values[b]); });
        const auto wanted = std::max<std::size_t>(1, static_cast<std::size_t>(density * 400'000.0));
        std::vector<float> expected(values.size());
        for (std::size_t i = 0; i < wanted; ++i) {
            expected[order[i]] = blocks::bf16_value(blocks::bf16_nearest(values[order[i]]));
        }
        EXPECT_EQ(back, expected) << density;
    }
}

TEST(TopK, RefusesInconsistentCountsAndGaps) {
    const auto message = [](const std::vector<unsigned>& payload,
                            std::vector<unsigned> parameters = {0, 0, 0, 0}) {
        const auto result = decoded(CodecId::TopK, flat(6), wrapped(CodecId::TopK, 6, payload, parameters));
        return result ? std::string("accepted") : result.error().message;
    };
    const auto has = [](const std::string& text, const char* part) {
        return text.find(part) != std::string::npos;
    };
    EXPECT_EQ(message({2, 0, 0, 0, 0, 0x0B, 0x40, 0x40, 0x80, 0xBF}), "accepted");
    EXPECT_TRUE(has(message({7, 0, 0, 0, 0, 0x0B, 0x40, 0x40}), "claims 7"));
    EXPECT_TRUE(has(message({2, 0, 0, 0, 18, 0x0B, 0x40, 0x40, 0x80, 0xBF}), "shift of 18"));
    EXPECT_TRUE(
        has(message({2, 0, 0, 0, 0, 0x3B, 0x40, 0x40, 0x80, 0xBF}), "index beyond"));  // gaps 2, 3 -> past 5
    EXPECT_TRUE(has(message({2, 0, 0, 0, 0, 0x2B, 0x40, 0x40, 0x80, 0xBF}), "followed by"));
    EXPECT_TRUE(has(message({2, 0, 0, 0, 0, 0x0B, 0x40, 0x40}), "does not fit"));
    EXPECT_TRUE(has(message({2, 0, 0, 0, 0, 0x0B, 0x80, 0x7F, 0x80, 0xBF}), "NaN or infinity"));
    EXPECT_TRUE(has(message({0, 0, 0, 0, 0}, {2, 0, 0, 0}), "4 bytes"));
    EXPECT_TRUE(has(message({0, 0, 0, 0, 0}, {0, 0, 1, 0}), "4 bytes"));
}

}  // namespace
}  // namespace fedllm::codec
