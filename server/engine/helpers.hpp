// Help from other threads, which may come soon, late or never: what is asked for is done without it too, and
// with the same result.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "common/crypto/sha256.hpp"

namespace fedllm::server::engine {

class Helpers {
public:
    // Runs a function on another thread, some time.
    using Run = std::function<void(std::function<void()>)>;

    Helpers() = default;  // nobody
    Helpers(Run run, unsigned threads) : run_(std::move(run)), threads_(threads) {}

    void ask(std::function<void()> work) const {
        if (run_) run_(std::move(work));
    }
    // each(0) to each(count - 1), in any order, by the caller and whoever comes; back when all have returned.
    void in_parts(std::size_t count, const std::function<void(std::size_t)>& each) const;

private:
    Run run_;
    unsigned threads_ = 0;
};

// The SHA-256 of two runs of memory that are still being filled: while one thread computes a version's values
// and writes them, another hashes what is there already. Hashing 40 MB takes as long as making them, and
// nobody can be told of a version before its digest is known.
//
// Lifecycle: extend() as bytes become final, then finish() once for each; or destroyed before that. The
// memory may go when it is gone. Concurrency: one writer; the helper is its own affair.
class PrefixHashes {
public:
    explicit PrefixHashes(const Helpers& helpers, std::span<const std::byte> first,
                          std::span<const std::byte> second = {});
    PrefixHashes(const PrefixHashes&) = delete;
    PrefixHashes& operator=(const PrefixHashes&) = delete;
    ~PrefixHashes();

    enum class Which : std::size_t { First, Second };
    void extend(Which which, std::size_t bytes_ready);  // counted from the first byte; these change no more
    crypto::Digest finish(Which which);                 // of all its bytes, which are final now

private:
    struct State;
    std::shared_ptr<State> state_;  // shared with the helper, which may come when all is over
};

}  // namespace fedllm::server::engine
