#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

#include "kernels/attention/op.hpp"
#include "kernels/device/gpu.hpp"
#include "kernels/device/thread_pool.hpp"
#include "kernels/lora_matmul/op.hpp"

// Counts the allocations of the whole program, to show that a warm operation makes none.
namespace {
std::atomic<std::size_t> allocations{0};
}
void* operator new(std::size_t size) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace fedllm::kernels {
namespace {

TEST(ThreadPool, VisitsEveryIndexOnce) {
    for (const unsigned threads : {1u, 2u, 3u, 8u}) {
        ThreadPool pool(threads);
        EXPECT_EQ(pool.threads(), threads);
        for (const std::size_t count : {0u, 1u, 2u, 7u, 1000u}) {
            std::vector<std::atomic<int>> visits(count);
            pool.parallel_for(count, [&](std::size_t i) { visits[i].fetch_add(1); });
            for (std::size_t i = 0; i < count; ++i) EXPECT_EQ(visits[i].load(), 1) << i << " of " << count;
        }
    }
}

TEST(ThreadPool, ManyShortJobsAndSleepsBetweenThem) {
    ThreadPool pool(4);
    std::size_t total = 0;
    for (int job = 0; job < 20'000; ++job) {
        std::atomic<std::size_t> sum{0};
        pool.parallel_for(5, [&](std::size_t i) { sum.fetch_add(i, std::memory_order_relaxed); });
        total += sum.load();
        if (job % 5000 == 0)
            std::this_thread::sleep_for(std::chrono::milliseconds(5));  // lets the workers park
    }
    EXPECT_EQ(total, 20'000u * 10u);
}

TEST(ThreadPool, PlainWritesOfBodiesAreSeenByTheCaller) {
    ThreadPool pool(3);
    std::vector<int> values(64);
    for (int job = 1; job <= 500; ++job) {
        pool.parallel_for(values.size(), [&](std::size_t i) { values[i] += 1; });
        for (const int value : values) ASSERT_EQ(value, job);
    }
}

TEST(ThreadPool, EachThreadHasItsOwnScratch) {
    ThreadPool pool(3);
    std::atomic<bool> shared{false};
    pool.parallel_for(200, [&](std::size_t i) {
        const auto scratch = ThreadPool::thread_scratch();
        scratch.front() = static_cast<float>(i);
        scratch.back() = static_cast<float>(i);
        std::this_thread::yield();
        if (scratch.front() != static_cast<float>(i) || scratch.back() != static_cast<float>(i))
            shared = true;
    });
    EXPECT_FALSE(shared.load());
}

TEST(ThreadPoolDeathTest, NestedCallsAreRefused) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_DEATH(
        {
            ThreadPool pool(1);
            pool.parallel_for(2, [&](std::size_t) { pool.parallel_for(2, [](std::size_t) {}); });
        },
        "parallel_for was called from a body");
}

TEST(Operations, DoNotAllocateOncePoolExists) {
    ThreadPool pool(2);
    std::vector<float> x(100 * 64, 0.5f), w(64 * 64, 0.25f), a(8 * 64, 0.1f), s(100 * 8), y(100 * 64),
        d(100 * 64);
    std::vector<float> da(8 * 64), db(64 * 8), ds(100 * 8), state(2 * 100), dot(2 * 100);
    const std::vector<std::int32_t> first_key(100, 0);
    const AttentionShape shape{1, 100, 2, 2, 32, 0.2f};
    const Matrix vx(x.data(), 100, 64), vy(y.data(), 100, 64), vd(d.data(), 100, 64), vs(s.data(), 100, 8);
    const LoraView lora{ConstMatrix(a.data(), 8, 64), ConstMatrix(a.data(), 64, 8), 2.0f};
    const std::size_t before = allocations.load();
    lora_matmul_forward(pool, vx, {w.data(), WeightType::F32, 64, 64}, lora, vs, vy);
    lora_matmul_backward(pool, vy, vx, {w.data(), WeightType::F32, 64, 64}, lora, vs,
                         Matrix(ds.data(), 100, 8), vd, {Matrix(da.data(), 8, 64), Matrix(db.data(), 64, 8)});
    attention_forward(pool, shape, first_key.data(), vx, vx, vx, vy, state.data());
    attention_backward(pool, shape, first_key.data(), vx, vx, vx, vy, state.data(), vd, dot.data(), vd, vx,
                       vy);
    EXPECT_EQ(allocations.load(), before);
}

TEST(Gpu, ListIsEmptyWithAReasonOrFull) {
    const GpuList list = list_gpus();
    EXPECT_EQ(list.gpus.empty(), !list.none_because.empty()) << list.none_because;
}

}  // namespace
}  // namespace fedllm::kernels
