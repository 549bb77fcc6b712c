#include <gtest/gtest.h>

#include <array>
#include <string>

#include "common/crypto/secure_rng.hpp"
#include "common/crypto/sha256.hpp"

namespace fedllm::crypto {
namespace {

// FIPS 180-4 examples.
constexpr std::string_view kEmpty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr std::string_view kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(Sha256, GivesTheStandardsVectors) {
    EXPECT_EQ(to_hex(sha256("")), kEmpty);
    EXPECT_EQ(to_hex(sha256("abc")), kAbc);
    EXPECT_EQ(to_hex(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
              "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(Sha256, PiecesHashLikeTheWholeAndFinishStartsAfresh) {
    Sha256 hash;
    hash.update("a");
    hash.update("");
    hash.update("bc");
    EXPECT_EQ(to_hex(hash.finish()), kAbc);
    EXPECT_EQ(to_hex(hash.finish()), kEmpty);
    hash.update("abc");
    EXPECT_EQ(to_hex(hash.finish()), kAbc);
}

TEST(Sha256, HexReadsBack) {
    const Digest digest = sha256("abc");
    EXPECT_EQ(from_hex(to_hex(digest)).value(), digest);
    EXPECT_EQ(from_hex("BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD").value(), digest);
}

TEST(Sha256, HexOfTheWrongLengthOrAlphabetIsRefused) {
    for (const std::string& bad : {std::string(), std::string(63, 'a'), std::string(65, 'a'),
                                   std::string(64, 'g'), std::string(63, 'a') + " "}) {
        const auto result = from_hex(bad);
        ASSERT_FALSE(result.has_value()) << bad;
        EXPECT_EQ(result.error().code, Errc::InvalidArgument);
    }
}

TEST(SecureRng, FillsEveryByteAndDoesNotRepeat) {
    SecureRng rng;
    std::array<std::byte, 64> seen{};
    for (int i = 0; i < 64; ++i) {  // a byte that is never written stays 0: chance 2^-512 otherwise
        std::array<std::byte, 64> drawn{};
        rng.fill(drawn);
        for (std::size_t j = 0; j < drawn.size(); ++j) seen[j] |= drawn[j];
    }
    for (const std::byte byte : seen) EXPECT_NE(byte, std::byte{0});
    EXPECT_EQ(rng.random_hex(16).size(), 32u);
    EXPECT_EQ(rng.random_hex(0), "");
    EXPECT_NE(rng.random_hex(16), rng.random_hex(16));
}

}  // namespace
}  // namespace fedllm::crypto
