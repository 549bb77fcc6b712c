#include "kernels/device/thread_pool.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <thread>
#include <vector>

#include "common/base/result.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fedllm::kernels {
namespace {

constexpr int kSpins = 1000;  // pauses, about 50 microseconds: longer than the gap between two operations
constexpr std::align_val_t kAlignment{64};

// The gate is one word: a job counter, whether the job still takes helpers, and how many are inside it.
// A thread that wakes after the gate closed never sees the job, so nobody waits for sleepers.
constexpr std::uint32_t kInsideMask = 0xFFFF;
constexpr std::uint32_t kOpen = 0x10000;
constexpr std::uint32_t kStep = 0x20000;
constexpr std::uint32_t job_of(std::uint32_t gate) { return gate / kStep; }

struct FreeFloats {
    void operator()(float* floats) const { ::operator delete(floats, kAlignment); }
};
using Floats = std::unique_ptr<float, FreeFloats>;

// Untouched pages of a large block cost no memory: the system commits them at first use.
Floats allocate(std::size_t count) {
    return Floats(static_cast<float*>(::operator new(count * sizeof(float), kAlignment)));
}

thread_local float* scratch_of_this_thread = nullptr;  // set while the thread may run bodies

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

struct ThreadPool::State {
    Call call =
        nullptr;  // call, context and count are written only while the gate is closed and nobody inside
    void* context = nullptr;
    std::size_t count = 0;
    alignas(64) std::atomic<std::size_t> next{0};
    alignas(64) std::atomic<std::uint32_t> gate{0};
    std::atomic<bool> stopping{false};
    Floats shared = allocate(kSharedScratchFloats);
    std::vector<Floats> scratch;  // [0] is the caller's
    std::vector<std::thread> workers;

    void work();
    void worker_main(float* own_scratch);
    bool join(std::uint32_t& seen);
};

void ThreadPool::State::work() {
    for (std::size_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < count;)
        call(context, index);
}

// Enters the open job unless it is the one seen last. On return `seen` is the gate that was looked at.
bool ThreadPool::State::join(std::uint32_t& seen) {
    std::uint32_t now = gate.load(std::memory_order_acquire);
    while ((now & kOpen) != 0 && job_of(now) != job_of(seen)) {
        if (gate.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) {
            seen = now + 1;
            return true;
        }
    }
    return false;
}

void ThreadPool::State::worker_main(float* own_scratch) {
    scratch_of_this_thread = own_scratch;
    std::uint32_t seen = 0;
    for (int spins = 0; !stopping.load(std::memory_order_acquire);) {
        if (join(seen)) {
            work();
            gate.fetch_sub(1, std::memory_order_acq_rel);
            spins = 0;
        } else if (++spins < kSpins) {
            pause();
        } else {
            const std::uint32_t now = gate.load(std::memory_order_acquire);
            const bool idle = (now & kOpen) == 0 || job_of(now) == job_of(seen);
            if (idle && !stopping.load(std::memory_order_acquire)) gate.wait(now, std::memory_order_acquire);
        }
    }
}

namespace {

unsigned count_of(unsigned threads) {
    return threads == 0 ? std::max(1u, std::thread::hardware_concurrency()) : threads;
}

}  // namespace

std::size_t ThreadPool::scratch_bytes(unsigned threads) {
    return sizeof(float) * (kSharedScratchFloats + count_of(threads) * kThreadScratchFloats);
}

ThreadPool::ThreadPool(unsigned threads) : state_(std::make_unique<State>()) {
    threads = count_of(threads);
    FEDLLM_CHECK(threads < kInsideMask, "too many threads for one pool");
    for (unsigned i = 0; i < threads; ++i) state_->scratch.push_back(allocate(kThreadScratchFloats));
    state_->workers.reserve(threads - 1);
    for (unsigned i = 1; i < threads; ++i) {
        state_->workers.emplace_back([this, i] { state_->worker_main(state_->scratch[i].get()); });
    }
}

ThreadPool::~ThreadPool() {
    state_->stopping.store(true, std::memory_order_release);
    state_->gate.fetch_add(kStep, std::memory_order_acq_rel);  // changes the word that sleepers watch
    state_->gate.notify_all();
    for (std::thread& worker : state_->workers) worker.join();
}

unsigned ThreadPool::threads() const { return static_cast<unsigned>(state_->workers.size()) + 1; }

std::span<float> ThreadPool::thread_scratch() {
    FEDLLM_CHECK(scratch_of_this_thread != nullptr, "thread_scratch is for bodies of parallel_for");
    return {scratch_of_this_thread, kThreadScratchFloats};
}

std::span<float> ThreadPool::shared_scratch() const { return {state_->shared.get(), kSharedScratchFloats}; }

void ThreadPool::run(std::size_t count, Call call, void* context) {
    FEDLLM_CHECK(scratch_of_this_thread == nullptr, "parallel_for was called from a body of parallel_for");
    State& state = *state_;
    scratch_of_this_thread = state.scratch[0].get();
    if (state.workers.empty() || count <= 1) {
        for (std::size_t index = 0; index < count; ++index) call(context, index);
        scratch_of_this_thread = nullptr;
        return;
    }
    state.call = call;
    state.context = context;
    state.count = count;
    state.next.store(0, std::memory_order_relaxed);
    const std::uint32_t job = (job_of(state.gate.load(std::memory_order_relaxed)) + 1) * kStep;
    state.gate.store(job | kOpen, std::memory_order_release);
    state.gate.notify_all();
    state.work();
    state.gate.fetch_and(~kOpen, std::memory_order_acq_rel);
    for (int spins = 0; (state.gate.load(std::memory_order_acquire) & kInsideMask) != 0; ++spins) {
        if (spins < kSpins) {
            pause();
        } else {
            std::this_thread::yield();  // a helper lost its core in the middle of a body: lend it ours
        }
    }
    scratch_of_this_thread = nullptr;
}

}  // namespace fedllm::kernels
