#include "common/codec/codec.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "common/base/philox.hpp"

namespace fedllm::codec {
namespace {

std::vector<float> some_values(std::size_t n) {
    Rng rng(7, "codec");
    std::vector<float> values(n);
    for (float& value : values) value = rng.normal();
    return values;
}

Layout flat(std::uint64_t elements) { return {{{elements, 0}}, elements, 1}; }

// Golden bytes: the format is little-endian f32, whatever machine wrote it.
TEST(CodecNone, BytesAreLittleEndianF32InOrder) {
    const std::vector<float> values{1.0f, -2.5f, 0.0f};
    const std::vector<unsigned char> expected{0x00, 0x00, 0x80, 0x3F, 0x00, 0x00, 0x20, 0xC0, 0, 0, 0, 0};
    const auto bytes = *encode({}, flat(values.size()), values, 0);
    ASSERT_EQ(bytes.size(), expected.size());
    EXPECT_EQ(std::memcmp(bytes.data(), expected.data(), expected.size()), 0);
    EXPECT_EQ(encoded_bytes(CodecId::None, flat(3)).least, 12u);
    EXPECT_EQ(encoded_bytes(CodecId::None, flat(3)).most, 12u);
    EXPECT_EQ(name(CodecId::None), "none");
}

TEST(CodecNone, DecodesWholeAndRefusesMissingBytes) {
    const auto values = some_values(100'000);
    const auto bytes = *encode({}, flat(values.size()), values, 0);
    std::vector<float> all;
    const auto append = [&all](std::uint64_t first, std::span<const float> slice) {
        EXPECT_EQ(first, all.size());
        all.insert(all.end(), slice.begin(), slice.end());
    };
    ASSERT_TRUE(decode(CodecId::None, flat(values.size()), bytes, append));
    EXPECT_EQ(all, values);
    all.clear();
    const auto cut = decode(CodecId::None, flat(values.size()), std::span(bytes).first(39), append);
    EXPECT_EQ(cut.error().code, Errc::ManifestMismatch);
}

// Whatever the pieces, the same values come out, each exactly once.
TEST(Decoder, PiecesOfEverySizeGiveTheSameValues) {
    const auto values = some_values(23);
    const auto bytes = *encode({}, flat(values.size()), values, 0);
    for (std::size_t piece = 1; piece <= bytes.size(); ++piece) {
        Decoder decoder(CodecId::None, flat(values.size()));
        std::vector<float> part, all;
        for (std::size_t at = 0; at < bytes.size(); at += piece) {
            const std::size_t n = std::min(piece, bytes.size() - at);
            ASSERT_TRUE(decoder.push(std::span(bytes).subspan(at, n), part));
            all.insert(all.end(), part.begin(), part.end());
            ASSERT_EQ(decoder.decoded(), all.size());
        }
        EXPECT_EQ(all, values) << "pieces of " << piece;
        EXPECT_TRUE(decoder.complete());
    }
}

TEST(Decoder, RefusesBytesBeyondTheLastValue) {
    const auto bytes = *encode({}, flat(3), some_values(3), 0);
    Decoder decoder(CodecId::None, flat(2));
    std::vector<float> values;
    ASSERT_TRUE(decoder.push(std::span(bytes).first(7), values));
    EXPECT_FALSE(decoder.complete());
    EXPECT_EQ(decoder.push(std::span(bytes).subspan(7, 2), values).error().code, Errc::TooLarge);
}

}  // namespace
}  // namespace fedllm::codec
