// The SHA-256 of memory that is still being filled: while one thread computes a version's values and writes
// them, another hashes what is there already. Hashing 40 MB takes as long as making them, and nobody can be
// told of a version before its digest is known.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>

#include "common/crypto/sha256.hpp"

namespace fedllm::server::engine {

// Runs a function on another thread soon, or late, or never: help that nothing depends on.
using Elsewhere = std::function<void(std::function<void()>)>;

// Lifecycle: extend() as bytes become final, then finish() once; or destroyed before that. `bytes` may go
// when it is gone. Concurrency: one writer; the helper is its own affair.
class PrefixHash {
public:
    PrefixHash(std::span<const std::byte> bytes, const Elsewhere& elsewhere);
    PrefixHash(const PrefixHash&) = delete;
    PrefixHash& operator=(const PrefixHash&) = delete;
    ~PrefixHash();

    void extend(std::size_t bytes_ready);  // counted from the first byte; these change no more
    crypto::Digest finish();               // of all bytes, which are final now

private:
    struct State;
    std::shared_ptr<State> state_;  // shared with the helper, which may come when all is over
};

}  // namespace fedllm::server::engine
