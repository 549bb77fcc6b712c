// SHA-256 (FIPS 180-4) through OpenSSL: the identity of model versions, uploads and base models.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/base/result.hpp"

struct evp_md_ctx_st;  // OpenSSL's EVP_MD_CTX, kept out of our headers

namespace fedllm::crypto {

using Digest = std::array<std::byte, 32>;

// A running hash. Move-only; reusable: finish() starts the next message.
class Sha256 {
public:
    Sha256();

    void update(std::span<const std::byte> bytes);
    void update(std::string_view text);
    Digest finish();
    Sha256 fork() const;    // of the same message so far; both go on by themselves
    Digest so_far() const;  // as finish() would say now; the message goes on

private:
    struct Free {
        void operator()(evp_md_ctx_st* context) const;
    };
    std::unique_ptr<evp_md_ctx_st, Free> context_;
};

Digest sha256(std::span<const std::byte> bytes);
Digest sha256(std::string_view text);

std::string to_hex(const Digest& digest);       // 64 lower-case digits
Result<Digest> from_hex(std::string_view hex);  // either case; InvalidArgument otherwise

}  // namespace fedllm::crypto
