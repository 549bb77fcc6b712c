#include "server/engine/helpers.hpp"

#include <algorithm>
#include <array>
#include <atomic>

namespace fedllm::server::engine {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{256} << 10;

// Shared with helpers that may come when all is done: then they find no part left, and touch nothing else.
struct Parts {
    std::size_t count = 0;
    const std::function<void(std::size_t)>* each = nullptr;
    std::atomic<std::size_t> next = 0;
    std::atomic<std::size_t> done = 0;

    void work() {
        for (std::size_t part = next++; part < count; part = next++) {
            (*each)(part);
            if (++done == count) done.notify_all();
        }
    }
};

}  // namespace

void Helpers::in_parts(std::size_t count, const std::function<void(std::size_t)>& each) const {
    const auto parts = std::make_shared<Parts>();
    parts->count = count;
    parts->each = &each;
    for (std::size_t i = 1; i < std::min<std::size_t>(threads_, count); ++i) {
        ask([parts] { parts->work(); });
    }
    parts->work();
    for (std::size_t done = parts->done; done < count; done = parts->done) parts->done.wait(done);
}

struct PrefixHashes::State {
    struct One {
        std::span<const std::byte> bytes;
        std::atomic<std::size_t> ready = 0;
        std::atomic_flag taken;  // by the one who hashes; guards what is below
        std::size_t hashed = 0;
        crypto::Sha256 hash;
        bool finished = false;  // the writer's own

        void hash_to(std::size_t end) {
            while (hashed < end) {
                const std::size_t count = std::min(kPieceBytes, end - hashed);
                hash.update(bytes.subspan(hashed, count));
                hashed += count;
            }
        }
        // The helper's: whether it did something.
        bool help() {
            if (taken.test_and_set(std::memory_order_acquire)) return false;
            const std::size_t before = hashed;
            hash_to(std::min(ready.load(std::memory_order_acquire), before + kPieceBytes));
            const bool some = hashed > before;
            give_back();
            return some;
        }
        void give_back() {
            taken.clear(std::memory_order_release);
            taken.notify_all();
        }
        // The writer's, and for ever: from here on the helper, present or still to come, touches nothing.
        void take() {
            while (taken.test_and_set(std::memory_order_acquire)) {
                taken.wait(true, std::memory_order_relaxed);
            }
        }
    };
    std::array<One, 2> all;
    std::atomic<std::size_t> news = 0;  // counts what the writer did
    std::atomic<bool> over = false;

    void tell() {
        ++news;
        news.notify_all();
    }
    void help() {
        while (!over) {
            const std::size_t heard = news;
            bool some = false;
            for (One& one : all) some |= one.help();
            if (!some && !over) news.wait(heard);
        }
    }
};

PrefixHashes::PrefixHashes(const Helpers& helpers, std::span<const std::byte> first,
                           std::span<const std::byte> second)
    : state_(std::make_shared<State>()) {
    state_->all[0].bytes = first;
    state_->all[1].bytes = second;
    helpers.ask([state = state_] { state->help(); });
}

PrefixHashes::~PrefixHashes() {
    state_->over = true;
    state_->tell();
    for (State::One& one : state_->all) {
        if (!one.finished) one.take();
    }
}

void PrefixHashes::extend(Which which, std::size_t bytes_ready) {
    state_->all[static_cast<std::size_t>(which)].ready.store(bytes_ready, std::memory_order_release);
    state_->tell();
}

crypto::Digest PrefixHashes::finish(Which which) {
    State::One& one = state_->all[static_cast<std::size_t>(which)];
    extend(which, one.bytes.size());
    one.take();
    one.finished = true;
    one.hash_to(one.bytes.size());
    return one.hash.finish();
}

}  // namespace fedllm::server::engine
