#include "server/engine/prefix_hash.hpp"

#include <algorithm>
#include <atomic>
#include <limits>

namespace fedllm::server::engine {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{256} << 10;
constexpr std::size_t kGivenUp = std::numeric_limits<std::size_t>::max();

}  // namespace

struct PrefixHash::State {
    std::span<const std::byte> bytes;
    std::atomic<std::size_t> ready = 0;  // or kGivenUp: the writer goes, and the bytes with it
    std::atomic_flag taken;              // by the one who hashes; guards what is below
    std::size_t hashed = 0;
    crypto::Sha256 hash;

    void hash_piece(std::size_t end) {
        const std::size_t count = std::min(kPieceBytes, end - hashed);
        hash.update(bytes.subspan(hashed, count));
        hashed += count;
    }
    // The helper's part: until all is hashed, or nobody wants it.
    void help() {
        if (taken.test_and_set(std::memory_order_acquire)) return;
        while (hashed < bytes.size()) {
            const std::size_t end = ready.load(std::memory_order_acquire);
            if (end == kGivenUp) break;
            if (end == hashed) {
                ready.wait(end, std::memory_order_acquire);
            } else {
                hash_piece(end);
            }
        }
        taken.clear(std::memory_order_release);
        taken.notify_all();
    }
    // The writer's: from here on the helper, present or still to come, touches nothing.
    void take() {
        while (taken.test_and_set(std::memory_order_acquire)) taken.wait(true, std::memory_order_relaxed);
    }
};

PrefixHash::PrefixHash(std::span<const std::byte> bytes, const Elsewhere& elsewhere)
    : state_(std::make_shared<State>()) {
    state_->bytes = bytes;
    elsewhere([state = state_] { state->help(); });
}

PrefixHash::~PrefixHash() {
    if (!state_) return;
    state_->ready.store(kGivenUp, std::memory_order_release);
    state_->ready.notify_all();
    state_->take();
}

void PrefixHash::extend(std::size_t bytes_ready) {
    state_->ready.store(bytes_ready, std::memory_order_release);
    state_->ready.notify_all();
}

crypto::Digest PrefixHash::finish() {
    extend(state_->bytes.size());
    const std::shared_ptr<State> state = std::move(state_);
    state->take();
    while (state->hashed < state->bytes.size()) state->hash_piece(state->bytes.size());
    return state->hash.finish();
}

}  // namespace fedllm::server::engine
