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
#include <optional>
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
[[maybe_unused]] constexpr std::size_t kEntryBytes = 8 * 1024;
constexpr unsigned kThreadsMax = 1024;
constexpr unsigned kBarriers = 16;
constexpr std::size_t kSharedMax = 227 * 1024;

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
        // What returns leaves nothing poisoned: left are the frames that a fiber begins with.
        __asan_unpoison_memory_region(stacks_[thread].get() + kStackBytes - kEntryBytes, kEntryBytes);
#endif
        return stack;
    }

private:
    std::vector<std::unique_ptr<unsigned char[]>> stacks_;
};

// A block's shared memory: aligned as the GPU's, exactly as long as asked for, and full of NaNs.
class Shared {
public:
    unsigned char* of(std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(aligned_, kSharedMax);
        __asan_poison_memory_region(aligned_ + bytes, kSharedMax + kAlignment - bytes);
#endif
        std::memset(aligned_, 0xFF, bytes);
        return aligned_;
    }

private:
    static constexpr std::size_t kAlignment = 1024;
    std::unique_ptr<unsigned char[]> room_ = std::make_unique<unsigned char[]>(kSharedMax + 2 * kAlignment);
    unsigned char* aligned_ =
        room_.get() + (kAlignment - reinterpret_cast<std::uintptr_t>(room_.get()) % kAlignment) % kAlignment;
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
        stacks_.reserve(threads);
        for (std::vector<unsigned>& ready : ready_) ready.reserve(threads);
        for (unsigned t = 0; t < threads; ++t) {
            state_[t] = {{t, 0, 0}, at, {threads, 1, 1}, grid, shared};
            ready(t);
            const context::stack_context stack = stacks.of(t);
            stacks_.push_back(stack);
            fibers_[t] =
                context::fiber(std::allocator_arg, context::preallocated(stack.sp, stack.size, stack),
                               Borrowed(), [this](context::fiber&& home) { return live(std::move(home)); });
        }
    }

    void run() {
        running = this;
        while (!ready_[0].empty() || !ready_[1].empty()) {
            current_ = next();
            enter();
        }
        running = nullptr;
        if (done_ != fibers_.size()) fail(where() + " waits for threads that have ended or are elsewhere");
    }

    Thread& current() { return state_[current_]; }
    AsyncCopies& copies() { return made(copies_[current_]); }
    WgmmaWork& products() { return made(products_[current_]); }

    void barrier(unsigned id, unsigned count) {
        if (id >= kBarriers) fail("barrier " + std::to_string(id) + " of 16");
        if (count == 0) count = static_cast<unsigned>(fibers_.size());
        std::vector<unsigned>& waiting = barriers_[id];
        waiting.reserve(count);
        if (waiting.size() + 1 < count) {
            waiting.push_back(current_);
            return leave();
        }
        for (const unsigned thread : waiting) ready(thread);
        waiting.clear();
    }

    void meet(unsigned size, void* brought, void (*together)(void* const*)) {
        const unsigned group = current_ / size;
        if ((group + 1) * size > fibers_.size()) {
            fail("a block of " + std::to_string(fibers_.size()) + " threads has no full group of " +
                 std::to_string(size) + " for thread " + std::to_string(current_));
        }
        Group& meeting = size == kWarp ? warps_[group] : groups_[group];
        meeting.brought[current_ % size] = brought;
        if (++meeting.came < size) return leave();
        meeting.came = 0;
        together(meeting.brought.data());
        for (unsigned thread = group * size; thread < (group + 1) * size; ++thread) {
            if (thread != current_) ready(thread);
        }
    }

private:
    struct Group {
        std::array<void*, 128> brought{};
        unsigned came = 0;
    };

    // Few kernels have any: made when a thread first asks.
    template <class T>
    static T& made(std::optional<T>& of_thread) {
        return of_thread ? *of_thread : of_thread.emplace();
    }

    void ready(unsigned thread) { ready_[thread / kWarp == ahead_ ? 0 : 1].push_back(thread); }

    // In half of the blocks one warp runs ahead of the others as far as barriers let it: threads drawn evenly
    // stay so close together that memory which is used again too early is seldom seen.
    unsigned next() {
        std::vector<unsigned>& from = ready_[ready_[0].empty() ? 1 : 0];
        std::swap(from[order_() % from.size()], from.back());
        const unsigned thread = from.back();
        from.pop_back();
        return thread;
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
    std::vector<std::optional<AsyncCopies>> copies_;
    std::vector<std::optional<WgmmaWork>> products_;
    std::vector<context::stack_context> stacks_;
    std::array<std::vector<unsigned>, 2> ready_;  // of the warp that runs ahead, of the others
    std::array<std::vector<unsigned>, kBarriers> barriers_;
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
    if (threads == 0 || threads > kThreadsMax) fail("a block of " + std::to_string(threads) + " threads");
    if (shared_bytes > kSharedMax)
        fail(std::to_string(shared_bytes) + " bytes of shared memory: a block has 227 KiB");
    thread_local Stacks stacks;
    thread_local Shared shared;
    thread_local std::mt19937_64 order(seed());
    std::vector<std::size_t> blocks(std::size_t{grid.x} * grid.y * grid.z);
    for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = i;
    std::shuffle(blocks.begin(), blocks.end(), order);
    for (const std::size_t block : blocks) {
        const Index at{static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
                       static_cast<unsigned>(block / grid.x / grid.y)};
        Block run_of(grid, at, threads, shared.of(shared_bytes), stacks, order, body);
        run_of.run();
    }
}

}  // namespace fedllm::kernels::cuda::emulation
