// offload(): the result comes back; an exception too; a cancellation waits for the work's end.
#include "common/net/offload.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/thread_pool.hpp>
#include <stdexcept>
#include <thread>

#include "common/net/task_group.hpp"
#include "tests/common/net/support.hpp"

namespace fedllm::net {
namespace {

awaitable<void> adds(asio::any_io_executor pool, int& sum) {
    sum = co_await offload(pool, [] { return 3 + 4; });
    bool thrown = false;
    try {
        co_await offload(pool, []() -> int { throw std::runtime_error("on purpose"); });
    } catch (const std::runtime_error&) {
        thrown = true;
    }
    EXPECT_TRUE(thrown);
}

TEST(Offload, BringsBackResultsAndExceptions) {
    asio::io_context loop;
    asio::thread_pool pool(1);
    int sum = 0;
    run(loop, adds(pool.get_executor(), sum));
    EXPECT_EQ(sum, 7);
}

awaitable<Result<void>> works(asio::any_io_executor pool, std::atomic<bool>& go, std::atomic<bool>& done) {
    const bool worked = co_await offload(pool, [&] {
        while (!go) std::this_thread::yield();
        return done = true;
    });
    EXPECT_TRUE(worked);
    co_return Result<void>{};
}

awaitable<void> cancels(TaskGroup& group, std::atomic<bool>& go, std::atomic<bool>& done) {
    const auto slept = co_await sleep_for(1ms);  // the work has begun
    EXPECT_TRUE(slept);
    std::thread later([&] {
        std::this_thread::sleep_for(5ms);  // after the cancellation
        go = true;
    });
    co_await group.stop(0ms);
    EXPECT_TRUE(done) << "what the work borrows must not go before it";
    later.join();
}

TEST(Offload, ACancellationWaitsForTheWorksEnd) {
    asio::io_context loop;
    asio::thread_pool pool(1);
    TaskGroup group(loop.get_executor());
    std::atomic<bool> go = false, done = false;
    group.spawn("works", works(pool.get_executor(), go, done));
    run(loop, cancels(group, go, done));
    EXPECT_EQ(group.size(), 0u);
}

}  // namespace
}  // namespace fedllm::net
