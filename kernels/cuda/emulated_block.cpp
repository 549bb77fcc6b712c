#include "kernels/cuda/emulated_block.hpp"

#include <algorithm>
#include <array>
#include <boost/context/fiber.hpp>
#include <boost/context/fixedsize_stack.hpp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/emulated_tensor_core.hpp"
#include "kernels/cuda/emulated_wgmma.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace fedllm::kernels::cuda::emulation {
namespace {

namespace context = boost::context;

constexpr std::size_t kStackBytes = 256 * 1024;
constexpr unsigned kThreadsMax = 1024;
constexpr unsigned kBarriers = 16;

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "CUDA emulation: %s\n", what.c_str());
    std::abort();
}

// Stacks are taken once and used for every block.
class Stacks {
public:
    context::stack_context of(unsigned thread) {
        if (stacks_.size() <= thread) stacks_.resize(thread + 1);
        if (!stacks_[thread]) stacks_[thread] = std::make_unique<unsigned char[]>(kStackBytes);
        context::stack_context stack;
        stack.size = kStackBytes;
        stack.sp = stacks_[thread].get() + kStackBytes;
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(stacks_[thread].get(), kStackBytes);
#endif
        return stack;
    }

private:
    std::vector<std::unique_ptr<unsigned char[]>> stacks_;
};

// The stacks belong to Stacks: a fiber has nothing to free.
struct Borrowed {
    context::stack_context allocate() { return {}; }
    void deallocate(context::stack_context&) {}
};

class Block;
thread_local Block* running = nullptr;

// Lifecycle: one block's run. Concurrency: one host thread.
class Block {
public:
    Block(Index grid, Index at, unsigned threads, unsigned char* shared, Stacks& stacks,
          std::mt19937_64& order, const std::function<void()>& body)
        : body_(body),
          order_(order),
          ahead_(static_cast<unsigned>(order() % (2 * ((threads + kWarp - 1) / kWarp)))),
          fibers_(threads),
          state_(threads),
          copies_(threads),
          products_(threads),
          warps_((threads + kWarp - 1) / kWarp),
          groups_((threads + 127) / 128) {
        for (unsigned t = 0; t < threads; ++t) {
            state_[t] = {{t, 0, 0}, at, {threads, 1, 1}, grid, shared};
            ready_.push_back(t);
            const context::stack_context stack = stacks.of(t);
            stacks_.push_back(stack);
            fibers_[t] =
                context::fiber(std::allocator_arg, context::preallocated(stack.sp, stack.size, stack),
                               Borrowed(), [this](context::fiber&& home) { return live(std::move(home)); });
        }
    }

    void run() {
        running = this;
        while (!ready_.empty()) {
            std::swap(ready_[next()], ready_.back());
            current_ = ready_.back();
            ready_.pop_back();
            enter();
        }
        running = nullptr;
        if (done_ != fibers_.size()) fail(where() + " waits for threads that have ended or are elsewhere");
    }

    Thread& current() { return state_[current_]; }
    AsyncCopies& copies() { return copies_[current_]; }
    WgmmaWork& products() { return products_[current_]; }

    void barrier(unsigned id, unsigned count) {
        if (id >= kBarriers) fail("barrier " + std::to_string(id) + " of 16");
        if (count == 0) count = static_cast<unsigned>(fibers_.size());
        Waiting& waiting = barriers_[id];
        waiting.threads.push_back(current_);
        if (waiting.threads.size() < count) return leave();
        wake(waiting);
    }

    void meet(unsigned size, void* brought, void (*together)(void* const*)) {
        const unsigned group = current_ / size;
        if ((group + 1) * size > fibers_.size()) {
            fail("a block of " + std::to_string(fibers_.size()) + " threads has no full group of " +
                 std::to_string(size) + " for thread " + std::to_string(current_));
        }
        Group& meeting = size == kWarp ? warps_[group] : groups_[group];
        meeting.brought[current_ % size] = brought;
        meeting.waiting.threads.push_back(current_);
        if (meeting.waiting.threads.size() < size) return leave();
        together(meeting.brought.data());
        wake(meeting.waiting);
    }

private:
    struct Waiting {
        std::vector<unsigned> threads;
    };
    struct Group {
        std::array<void*, 128> brought{};
        Waiting waiting;
    };

    // In half of the blocks one warp runs ahead of the others as far as barriers let it: threads drawn evenly
    // stay so close together that memory which is used again too early is seldom seen.
    std::size_t next() {
        const std::size_t drawn = order_() % ready_.size();
        for (std::size_t i = 0; i < ready_.size() && ahead_ < warps_.size(); ++i) {
            const std::size_t at = (drawn + i) % ready_.size();
            if (ready_[at] / kWarp == ahead_) return at;
        }
        return drawn;
    }

    // Who came last goes on; the others are ready again.
    void wake(Waiting& waiting) {
        for (const unsigned thread : waiting.threads) {
            if (thread != current_) ready_.push_back(thread);
        }
        waiting.threads.clear();
    }

    std::string where() const {
        const Thread& t = state_[0];
        return "block (" + std::to_string(t.block_index.x) + ", " + std::to_string(t.block_index.y) + ", " +
               std::to_string(t.block_index.z) + ") of " + std::to_string(fibers_.size()) + " threads";
    }

    void enter() {
#if defined(__SANITIZE_ADDRESS__)
        const context::stack_context& stack = stacks_[current_];
        const auto* bottom = static_cast<unsigned char*>(stack.sp) - stack.size;
        void* fake = nullptr;
        __sanitizer_start_switch_fiber(&fake, bottom, stack.size);
#endif
        const unsigned entered = current_;
        context::fiber back = std::move(fibers_[entered]).resume();
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
        fibers_[entered] = std::move(back);
    }

    void leave() {
#if defined(__SANITIZE_ADDRESS__)
        void* fake = nullptr;
        __sanitizer_start_switch_fiber(&fake, home_bottom_, home_size_);
#endif
        home_ = std::move(home_).resume();
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(fake, &home_bottom_, &home_size_);
#endif
    }

    context::fiber live(context::fiber&& home) {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(nullptr, &home_bottom_, &home_size_);
#endif
        home_ = std::move(home);
        body_();
        ++done_;
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_start_switch_fiber(nullptr, home_bottom_, home_size_);
#endif
        return std::move(home_);
    }

    const std::function<void()>& body_;
    std::mt19937_64& order_;
    const unsigned ahead_;  // a warp, or from their number on none
    std::vector<context::fiber> fibers_;
    std::vector<Thread> state_;
    std::vector<AsyncCopies> copies_;
    std::vector<WgmmaWork> products_;
    std::vector<context::stack_context> stacks_;
    std::vector<unsigned> ready_;
    std::array<Waiting, kBarriers> barriers_;
    std::vector<Group> warps_, groups_;
    context::fiber home_;
    const void* home_bottom_ = nullptr;
    std::size_t home_size_ = 0;
    unsigned current_ = 0;
    std::size_t done_ = 0;
};

std::uint64_t seed() {
    const char* chosen = std::getenv("FEDLLM_EMULATION_SEED");
    return chosen == nullptr ? 1 : std::strtoull(chosen, nullptr, 10);
}

}  // namespace

Thread& thread() {
    if (running == nullptr) fail("device code was called from the host");
    return running->current();
}

AsyncCopies& async_copies() { return running->copies(); }
WgmmaWork& wgmma_work() { return running->products(); }

void barrier(unsigned id, unsigned count) { running->barrier(id, count); }

void meet(unsigned size, void* brought, void (*together)(void* const*)) {
    running->meet(size, brought, together);
}

void run(Index grid, unsigned threads, std::size_t shared_bytes, const std::function<void()>& body) {
    constexpr std::size_t kSharedMax = 227 * 1024;
    if (threads == 0 || threads > kThreadsMax) fail("a block of " + std::to_string(threads) + " threads");
    if (shared_bytes > kSharedMax)
        fail(std::to_string(shared_bytes) + " bytes of shared memory: a block has 227 KiB");
    thread_local Stacks stacks;
    thread_local std::mt19937_64 order(seed());
    std::vector<std::size_t> blocks(std::size_t{grid.x} * grid.y * grid.z);
    for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = i;
    std::shuffle(blocks.begin(), blocks.end(), order);
    for (const std::size_t block : blocks) {
        // Aligned as the GPU's, exactly as long as asked for, and full of NaNs.
        std::vector<unsigned char> room(shared_bytes + 1024, 0xFF);
        auto* aligned = room.data() + (1024 - reinterpret_cast<std::uintptr_t>(room.data()) % 1024) % 1024;
#if defined(__SANITIZE_ADDRESS__)
        __asan_poison_memory_region(
            aligned + shared_bytes,
            static_cast<std::size_t>(room.data() + room.size() - (aligned + shared_bytes)));
#endif
        const Index at{static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
                       static_cast<unsigned>(block / grid.x / grid.y)};
        {
            Block run_of(grid, at, threads, aligned, stacks, order, body);
            run_of.run();
        }
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(room.data(), room.size());
#endif
    }
}

}  // namespace fedllm::kernels::cuda::emulation
