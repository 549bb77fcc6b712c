#include "common/crypto/secure_rng.hpp"

#include <openssl/rand.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "common/base/result.hpp"

namespace fedllm::crypto {

void SecureRng::fill(std::span<std::byte> bytes) {
    constexpr std::size_t kCallMax = 1 << 30;  // RAND_bytes takes an int
    while (!bytes.empty()) {
        const auto part = bytes.first(std::min(bytes.size(), kCallMax));
        const bool ok =
            RAND_bytes(reinterpret_cast<unsigned char*>(part.data()), static_cast<int>(part.size())) == 1;
        FEDLLM_CHECK(ok, "the system's random generator failed");
        bytes = bytes.subspan(part.size());
    }
}

std::string SecureRng::random_hex(std::size_t byte_count) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::vector<std::byte> bytes(byte_count);
    fill(bytes);
    std::string text;
    text.reserve(byte_count * 2);
    for (const std::byte byte : bytes) {
        text += digits[std::to_integer<unsigned>(byte >> 4)];
        text += digits[std::to_integer<unsigned>(byte & std::byte{15})];
    }
    return text;
}

}  // namespace fedllm::crypto
