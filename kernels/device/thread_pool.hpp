// The threads of the CPU backend. Every output element is reduced in one fixed order, however the work is
// cut: results are the same bits for any number of threads.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>

namespace fedllm::kernels {

// Lifecycle: threads start in the constructor and join in the destructor.
// Concurrency: parallel_for is called by one thread at a time (the trainer); bodies must not throw or call
// it. Limits: no allocation after construction. Idle threads spin for some microseconds, then sleep.
class ThreadPool {
public:
    explicit ThreadPool(unsigned threads = 0);  // 0: one per available core; counts the calling thread
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    unsigned threads() const;

    // Calls body(index) for index in [0, count), from all threads, and returns when all are done.
    template <class Body>
    void parallel_for(std::size_t count, Body&& body) {
        using Plain = std::remove_reference_t<Body>;
        run(
            count, [](void* context, std::size_t index) { (*static_cast<Plain*>(context))(index); },
            const_cast<void*>(static_cast<const void*>(std::addressof(body))));
    }

    // Inside a body: floats of this thread alone, aligned to 64 bytes, contents undefined at the body's
    // start.
    static std::span<float> thread_scratch();
    // Outside: floats that an operation may share between its bodies. Nothing is kept from call to call.
    std::span<float> shared_scratch() const;

    static constexpr std::size_t kThreadScratchFloats = 256 * 1024;
    static constexpr std::size_t kSharedScratchFloats = 512 * 1024;

    // Bytes that a pool of so many threads (0: one per available core) takes.
    static std::size_t scratch_bytes(unsigned threads);

private:
    using Call = void (*)(void* context, std::size_t index);
    void run(std::size_t count, Call call, void* context);

    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace fedllm::kernels
