// Secret randomness from the operating system through OpenSSL. Another type than fedllm::Rng on purpose, so
// that a reproducible stream can never stand where a secret is needed.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace fedllm::crypto {

// Concurrency: usable from any thread.
class SecureRng {
public:
    void fill(std::span<std::byte> bytes);           // aborts if the system has no randomness to give
    std::string random_hex(std::size_t byte_count);  // 2 * byte_count lower-case digits
};

}  // namespace fedllm::crypto
