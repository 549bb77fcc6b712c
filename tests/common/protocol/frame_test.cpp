#include "common/protocol/frame.hpp"

#include <gtest/gtest.h>

#include "tests/common/protocol/bytes.hpp"

namespace fedllm::protocol {
namespace {

// The worked examples of frame.hpp.
const auto kControlExample = from_hex_text("00 00 00 06  01 00 00 00  3a 00");
const auto kChunkExample = from_hex_text("00 00 00 0e  02 00 00 00  00 00 00 00 00 00 01 00  61 62");

Result<std::optional<Frame>> take(std::span<const std::byte> input, const FrameLimits& limits = {}) {
    return take_frame(input, limits);
}

TEST(Frame, GoldenBytes) {
    EXPECT_EQ(encode_control(from_hex_text("3a 00")), kControlExample);
    EXPECT_EQ(encode_chunk(256, to_bytes("ab")), kChunkExample);
    EXPECT_EQ(encode_chunk(0x0102030405060708u, to_bytes("x")),
              from_hex_text("00 00 00 0d  02 00 00 00  01 02 03 04 05 06 07 08  78"));
}

TEST(Frame, DecodesWhatItEncodes) {
    std::vector<std::byte> both = kControlExample;
    both.insert(both.end(), kChunkExample.begin(), kChunkExample.end());
    std::span<const std::byte> input = both;

    auto control = take_frame(input, {});
    ASSERT_TRUE(control && *control) << to_string(control.error());
    EXPECT_EQ((*control)->kind, FrameKind::Control);
    EXPECT_EQ(std::vector((*control)->bytes.begin(), (*control)->bytes.end()), from_hex_text("3a 00"));

    auto chunk = take_frame(input, {});
    ASSERT_TRUE(chunk && *chunk);
    EXPECT_EQ((*chunk)->kind, FrameKind::Chunk);
    EXPECT_EQ((*chunk)->offset, 256u);
    EXPECT_EQ(std::vector((*chunk)->bytes.begin(), (*chunk)->bytes.end()), to_bytes("ab"));
    EXPECT_TRUE(input.empty());
}

TEST(Frame, TruncatedAtEachByteAsksForMore) {
    for (const auto& frame : {kControlExample, kChunkExample}) {
        for (std::size_t size = 0; size < frame.size(); ++size) {
            auto part = take(std::span(frame).first(size));
            ASSERT_TRUE(part) << size;
            EXPECT_FALSE(*part) << size;
        }
    }
}

TEST(Frame, TooLongIsRefusedFromTheHeaderAlone) {
    const auto refused = [](std::string_view header, const FrameLimits& limits = {}) {
        auto result = take(from_hex_text(header), limits);
        return !result && result.error().code == Errc::TooLarge;
    };
    EXPECT_TRUE(refused("ff ff ff ff  01 00 00 00"));
    EXPECT_TRUE(refused("ff ff ff ff  02 00 00 00"));
    EXPECT_TRUE(refused("00 10 00 05  01 00 00 00"));   // 1 MiB and 1 byte of control
    EXPECT_FALSE(refused("00 10 00 04  01 00 00 00"));  // exactly 1 MiB
    EXPECT_TRUE(refused("00 10 00 0d  02 00 00 00"));
    EXPECT_FALSE(refused("00 10 00 0c  02 00 00 00"));
    EXPECT_TRUE(refused("00 01 00 05  01 00 00 00", kGreetingLimits));  // 64 KiB and 1 byte
    EXPECT_FALSE(refused("00 01 00 04  01 00 00 00", kGreetingLimits));
    EXPECT_TRUE(refused("00 00 00 0d  02 00 00 00", kGreetingLimits));  // no chunks at all
}

TEST(Frame, MalformedHeaders) {
    const auto malformed = [](std::string_view header) {
        auto result = take(from_hex_text(header));
        return !result && result.error().code == Errc::Malformed;
    };
    for (int kind = 0; kind < 256; ++kind) {
        auto bytes = kChunkExample;
        bytes[4] = static_cast<std::byte>(kind);
        auto result = take(bytes);
        EXPECT_EQ(result.has_value(), kind == 1 || kind == 2) << kind;
    }
    EXPECT_TRUE(malformed("00 00 00 06  01 01 00 00"));
    EXPECT_TRUE(malformed("00 00 00 06  01 00 01 00"));
    EXPECT_TRUE(malformed("00 00 00 06  01 00 00 80"));
    EXPECT_TRUE(malformed("00 00 00 00  01 00 00 00"));  // not even the kind
    EXPECT_TRUE(malformed("00 00 00 03  01 00 00 00"));
    EXPECT_TRUE(malformed("00 00 00 04  01 00 00 00"));                               // empty message
    EXPECT_TRUE(malformed("00 00 00 0c  02 00 00 00"));                               // chunk without data
    EXPECT_TRUE(malformed("00 00 00 08  02 00 00 00"));                               // chunk without offset
    EXPECT_TRUE(malformed("00 00 00 0d  02 00 00 00  ff ff ff ff ff ff ff ff  61"));  // end wraps around
}

}  // namespace
}  // namespace fedllm::protocol
