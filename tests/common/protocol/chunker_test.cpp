#include "common/protocol/chunker.hpp"

#include <gtest/gtest.h>

#include "tests/common/protocol/bytes.hpp"

namespace fedllm::protocol {
namespace {

const std::vector<std::byte> kBlob = to_bytes("the quick brown fox jumps over the lazy dog");
const std::string kDigest = crypto::to_hex(crypto::sha256(kBlob));

IncomingTransfer incoming() { return IncomingTransfer::start(kDigest, kBlob.size()).value(); }

TEST(Transfer, EverySplitAndEveryResumptionArrivesWhole) {
    for (std::size_t chunk_bytes = 1; chunk_bytes <= kBlob.size() + 1; ++chunk_bytes) {
        for (std::size_t held = 0; held <= kBlob.size(); ++held) {
            IncomingTransfer in = incoming();
            ASSERT_TRUE(in.prime(std::span(kBlob).first(held)));
            auto out = OutgoingTransfer::start(kBlob, in.offset(), chunk_bytes);
            ASSERT_TRUE(out);
            while (const auto chunk = out->next()) {
                ASSERT_LE(chunk->data.size(), chunk_bytes);
                ASSERT_FALSE(in.complete());
                ASSERT_TRUE(in.accept(*chunk));
            }
            ASSERT_EQ(out->remaining(), 0u);
            ASSERT_TRUE(in.complete());
            ASSERT_TRUE(in.verify());
        }
    }
}

TEST(Transfer, GapOverlapAndRepetitionAreOutOfOrder) {
    const std::span blob(kBlob);
    for (const std::uint64_t offset : {0u, 9u, 11u, 40u}) {
        IncomingTransfer in = incoming();
        ASSERT_TRUE(in.accept({0, blob.first(10)}));
        const auto result = in.accept({offset, blob.subspan(0, 1)});
        ASSERT_FALSE(result);
        EXPECT_EQ(result.error().code, Errc::OutOfOrder);
        EXPECT_EQ(in.offset(), 10u);
    }
}

TEST(Transfer, OverrunIsTooLarge) {
    auto in = IncomingTransfer::start(kDigest, kBlob.size() - 1).value();
    const auto result = in.accept({0, kBlob});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Errc::TooLarge);
    EXPECT_FALSE(incoming().prime(std::vector<std::byte>(kBlob.size() + 1)));
}

TEST(Transfer, OneFlippedBitIsADigestMismatch) {
    auto blob = kBlob;
    blob[7] ^= std::byte{4};
    IncomingTransfer in = incoming();
    ASSERT_TRUE(in.accept({0, blob}));
    const auto result = in.verify();
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, Errc::DigestMismatch);
}

TEST(Transfer, RefusesANonsenseStart) {
    EXPECT_FALSE(IncomingTransfer::start("abc", 1));
    const auto beyond = OutgoingTransfer::start(kBlob, kBlob.size() + 1, 4);
    ASSERT_FALSE(beyond);
    EXPECT_EQ(beyond.error().code, Errc::OutOfOrder);
}

}  // namespace
}  // namespace fedllm::protocol
