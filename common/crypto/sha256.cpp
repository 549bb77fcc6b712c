#include "common/crypto/sha256.hpp"

#include <openssl/evp.h>

namespace fedllm::crypto {
namespace {

int hex_value(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
    if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
    return -1;
}

std::span<const std::byte> bytes_of(std::string_view text) {
    return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

void Sha256::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

// OpenSSL fails here only without memory or without its default provider: the environment is gone.
Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
    FEDLLM_CHECK(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1,
                 "OpenSSL SHA-256");
}

void Sha256::update(std::span<const std::byte> bytes) {
    FEDLLM_CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1, "OpenSSL SHA-256");
}

void Sha256::update(std::string_view text) { update(bytes_of(text)); }

Digest Sha256::finish() {
    Digest digest{};
    auto* const out = reinterpret_cast<unsigned char*>(digest.data());
    const bool ok = EVP_DigestFinal_ex(context_.get(), out, nullptr) == 1 &&
                    EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1;
    FEDLLM_CHECK(ok, "OpenSSL SHA-256");
    return digest;
}

Sha256 Sha256::fork() const {
    Sha256 copy;
    FEDLLM_CHECK(EVP_MD_CTX_copy_ex(copy.context_.get(), context_.get()) == 1, "OpenSSL SHA-256");
    return copy;
}

Digest Sha256::so_far() const { return fork().finish(); }

Digest sha256(std::span<const std::byte> bytes) {
    Sha256 hash;
    hash.update(bytes);
    return hash.finish();
}

Digest sha256(std::string_view text) { return sha256(bytes_of(text)); }

std::string to_hex(const Digest& digest) {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    text.reserve(digest.size() * 2);
    for (const std::byte byte : digest) {
        text += digits[std::to_integer<unsigned>(byte >> 4)];
        text += digits[std::to_integer<unsigned>(byte & std::byte{15})];
    }
    return text;
}

Result<Digest> from_hex(std::string_view hex) {
    Digest digest{};
    if (hex.size() != digest.size() * 2) {
        return make_error(Errc::InvalidArgument,
                          "a SHA-256 digest has 64 hexadecimal digits, this text has " +
                              std::to_string(hex.size()) + " characters");
    }
    for (std::size_t i = 0; i < digest.size(); ++i) {
        const int high = hex_value(hex[2 * i]);
        const int low = hex_value(hex[2 * i + 1]);
        if (high < 0 || low < 0) {
            return make_error(Errc::InvalidArgument, "a SHA-256 digest has only hexadecimal digits, not '" +
                                                         std::string(hex.substr(2 * i, 2)) + "'");
        }
        digest[i] = static_cast<std::byte>(high * 16 + low);
    }
    return digest;
}

}  // namespace fedllm::crypto
