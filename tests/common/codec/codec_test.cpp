#include "common/codec/codec.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "common/codec/container.hpp"
#include "common/codec/crc32c.hpp"
#include "tests/common/codec/support.hpp"

namespace fedllm::codec {
namespace {

using namespace test;

constexpr CodecId kContained[] = {CodecId::Bf16, CodecId::Int8, CodecId::Int4,
                                  CodecId::Sign, CodecId::TopK, CodecId::Deadzone};

// Golden bytes: the format is little-endian f32, whatever machine wrote it.
TEST(CodecNone, BytesAreLittleEndianF32InOrder) {
    const std::vector<float> values{1.0f, -2.5f, 0.0f};
    EXPECT_EQ(hex(*encode({}, flat(3), values, 0)), "0000803F000020C000000000");
    EXPECT_EQ(encoded_bytes(CodecId::None, flat(3)), (ByteRange{12, 12}));
    EXPECT_EQ(name(CodecId::None), "none");
}

TEST(CodecNone, DecodesWholeAndInPiecesAndRefusesTheWrongSize) {
    const Layout layout = flat(100'003);
    const auto values = deltas(layout);
    const auto bytes = *encode({}, layout, values, 0);
    EXPECT_EQ(*decoded(CodecId::None, layout, bytes), values);
    for (const std::size_t piece : {1, 2, 3, 5, 7, 4096, 99'999}) {
        EXPECT_EQ(*decoded(CodecId::None, layout, bytes, piece), values) << piece;
    }
    EXPECT_EQ(decoded(CodecId::None, layout, std::span(bytes).first(39)).error().code,
              Errc::ManifestMismatch);
    EXPECT_EQ(decoded(CodecId::None, flat(100'002), bytes, 9).error().code, Errc::TooLarge);
}

TEST(Crc32c, GivesThePublishedValues) {  // RFC 3720, B.4
    const std::vector<std::byte> zeros(32);
    EXPECT_EQ(crc32c(zeros), 0x8A9136AAu);
    const std::string digits = "123456789";
    EXPECT_EQ(crc32c(std::as_bytes(std::span(digits))), 0xE3069283u);
}

class Contained : public ::testing::TestWithParam<CodecId> {
protected:
    Spec spec{.id = GetParam()};
    std::vector<std::byte> bytes_of(const Layout& layout, std::span<const float> values) const {
        return encode(spec, layout, values, 1).value();
    }
};
INSTANTIATE_TEST_SUITE_P(Codecs, Contained, ::testing::ValuesIn(kContained),
                         [](const auto& tested) { return test_name(tested.param); });

TEST_P(Contained, SizesKeepWithinTheBoundsAndEveryValueComesBackOnce) {
    for (const std::uint64_t elements : {0u, 1u, 31u, 32u, 33u, 1000u, 131'072u, 300'001u}) {
        const Layout layout = mixed(elements);
        const auto bytes = bytes_of(layout, deltas(layout));
        const ByteRange range = encoded_bytes(spec.id, layout);
        EXPECT_GE(bytes.size(), range.least) << elements;
        EXPECT_LE(bytes.size(), range.most) << elements;
        const auto values = decoded(spec.id, layout, bytes);
        ASSERT_TRUE(values) << values.error().message;
        EXPECT_EQ(values->size(), elements);
    }
}

TEST_P(Contained, PiecesOfEverySizeGiveTheSameValues) {
    const Layout layout = mixed(3000);
    const auto bytes = bytes_of(layout, deltas(layout));
    const auto whole = *decoded(spec.id, layout, bytes);
    for (std::size_t piece = 1; piece <= bytes.size(); piece += 1 + piece / 3) {
        EXPECT_EQ(*decoded(spec.id, layout, bytes, piece), whole) << piece;
    }
}

TEST_P(Contained, ZerosAreZerosAndSmallWhereSizeIsFree) {
    const Layout layout = mixed(300'000);
    const std::vector<float> zeros(layout.elements);
    const auto bytes = bytes_of(layout, zeros);
    EXPECT_EQ(*decoded(spec.id, layout, bytes), zeros);
    if (spec.id == CodecId::Deadzone) {
        EXPECT_EQ(bytes.size(), 28u);
    }
    if (spec.id == CodecId::TopK) {
        EXPECT_EQ(bytes.size(), 28u + 3 * 13);
    }
}

TEST_P(Contained, RefusesWhatIsNotFinite) {
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        std::vector<float> values(5000, 1.0f);
        values[4321] = bad;
        EXPECT_EQ(encode(spec, flat(5000), values, 0).error().code, Errc::NotFinite);
    }
}

TEST_P(Contained, ExtremeValuesStayFinite) {
    constexpr float kMax = std::numeric_limits<float>::max(),
                    kTiny = std::numeric_limits<float>::denorm_min();
    const std::vector<std::vector<float>> cases{
        {kMax, -kMax, 1.0f, 0.0f}, {kTiny, -kTiny, 0.0f}, {kMax, kTiny}, {-0.0f, -kMax}, {1e-30f, 1e-36f}};
    for (const auto& values : cases) {
        const Layout layout = flat(values.size());
        const auto back = decoded(spec.id, layout, bytes_of(layout, values));
        ASSERT_TRUE(back) << back.error().message;
        for (const float value : *back) EXPECT_TRUE(std::isfinite(value));
    }
}

// Every byte cut off, and every byte too many.
TEST_P(Contained, RefusesEveryTruncationAndOneByteMore) {
    const Layout layout = mixed(700);
    auto bytes = bytes_of(layout, deltas(layout));
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        const auto cut = decoded(spec.id, layout, std::span(bytes).first(size));
        ASSERT_FALSE(cut) << size;
        EXPECT_EQ(cut.error().code, Errc::ManifestMismatch) << size;
    }
    bytes.push_back(std::byte{});
    EXPECT_EQ(decoded(spec.id, layout, bytes).error().code, Errc::TooLarge);
}

TEST_P(Contained, RefusesEveryFlippedBit) {
    const Layout layout = mixed(200);
    auto bytes = bytes_of(layout, deltas(layout));
    for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
        bytes[bit / 8] ^= std::byte{1} << (bit % 8);
        EXPECT_FALSE(decoded(spec.id, layout, bytes)) << "bit " << bit;
        bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    }
}

TEST_P(Contained, RefusesAnotherLayoutOrCodecBeforeAnyValue) {
    const Layout layout = mixed(700);
    const auto bytes = bytes_of(layout, deltas(layout));
    Layout more = layout;
    more.runs.back().elements += 1;
    more.elements += 1;
    const auto longer = decoded(spec.id, more, bytes);
    EXPECT_EQ(longer.error().code, Errc::ManifestMismatch);
    EXPECT_NE(longer.error().message.find("elements: 700; the job has 701"), std::string::npos);
    EXPECT_EQ(decoded(spec.id, flat(700), bytes).error().code, Errc::ManifestMismatch);
    const CodecId other = spec.id == CodecId::Int8 ? CodecId::Int4 : CodecId::Int8;
    EXPECT_EQ(decoded(other, layout, bytes).error().code, Errc::ManifestMismatch);
}

TEST_P(Contained, RefusesSizesBeforeTakingMemory) {
    const Layout layout = mixed(700);
    const auto bytes = bytes_of(layout, deltas(layout));
    const auto with = [&](std::size_t at, std::uint32_t number) {
        auto changed = bytes;
        std::memcpy(changed.data() + at, &number, sizeof number);
        return decoded(spec.id, layout, changed).error().code;
    };
    EXPECT_EQ(with(16, 0xFFFFFFFF), Errc::TooLarge);  // parameter_bytes
    const std::size_t head = kPreludeBytes + read_number<std::uint32_t>(bytes, 16) + kCrcBytes;
    EXPECT_EQ(with(head, 0xFFFFFFFF), Errc::TooLarge);  // payload_bytes
}

TEST(Encode, BoundsOfSizesAreThoseOfTheFormats) {
    const Layout layout = flat(131'072 + 65);
    EXPECT_EQ(encoded_bytes(CodecId::Bf16, layout).most, 24u + 2 * 8 + 2 * layout.elements);
    EXPECT_EQ(encoded_bytes(CodecId::Int8, layout).most, 24u + 2 * 8 + layout.elements + 2 * 2050);
    EXPECT_EQ(encoded_bytes(CodecId::Int4, layout).least, 24u + 2 * 8 + 65'536 + 33 + 2 * 2050);
    EXPECT_EQ(encoded_bytes(CodecId::Sign, layout).least, 24u + 2 * 8 + 16'384 + 9 + 2 * 2050);
    EXPECT_EQ(encoded_bytes(CodecId::Deadzone, layout).least, 28u);
}

}  // namespace
}  // namespace fedllm::codec
