// within(), sleep_for(), Watchdog and Backoff.
#include <gtest/gtest.h>

#include "common/net/backoff.hpp"
#include "common/net/watchdog.hpp"
#include "tests/common/net/support.hpp"

namespace fedllm::net {
namespace {

awaitable<Result<int>> answer_after(Duration time) {
    FEDLLM_CO_TRY_VOID(co_await sleep_for(time));
    co_return 7;
}

awaitable<Result<int>> fails() { co_return make_error(Errc::NotFound, "as it should"); }

awaitable<Result<int>> throws() {
    (void)co_await sleep_for(1ms);
    throw std::runtime_error("on purpose");
}

awaitable<void> race() {
    const auto fast = co_await within(10s, answer_after(1ms));
    EXPECT_EQ(fast.value(), 7);
    const auto slow = co_await within(5ms, answer_after(60s));
    EXPECT_EQ(slow.error().code, Errc::Timeout);
    const auto failed = co_await within(10s, fails());
    EXPECT_EQ(failed.error().code, Errc::NotFound);
    const auto nested = co_await within(5ms, within(30s, answer_after(60s)));
    EXPECT_EQ(nested.error().code, Errc::Timeout);
}

TEST(Within, FirstOneWins) {
    asio::io_context loop;
    const auto started = std::chrono::steady_clock::now();
    run(loop, race());
    EXPECT_LT(std::chrono::steady_clock::now() - started, 20s);
}

awaitable<void> catches(bool& caught) {
    try {
        (void)co_await within(10s, throws());
    } catch (const std::runtime_error&) {
        caught = true;
    }
}

TEST(Within, ExceptionsPass) {
    asio::io_context loop;
    bool caught = false;
    run(loop, catches(caught));
    EXPECT_TRUE(caught);
}

awaitable<void> watch(int& expired) {
    Watchdog dog(co_await asio::this_coro::executor, [&] { ++expired; });
    dog.start(60s);
    dog.start(10ms);  // a nearer deadline replaces a farther one
    co_await until([&] { return expired == 1; });
    dog.start(1ms);  // destroyed while pending
}

TEST(WatchdogTest, BarksOnceAtTheNearerDeadline) {
    asio::io_context loop;
    int expired = 0;
    run(loop, watch(expired));
    EXPECT_EQ(expired, 1);
}

TEST(BackoffTest, GrowsJittersAndResets) {
    Rng rng(1, "backoff");
    Backoff backoff({.first = 100ms, .longest = 2s});
    Duration ceiling = 100ms;
    bool differs = false;
    for (int i = 0; i < 50; ++i) {
        const Duration wait = backoff.next(rng);
        EXPECT_GE(wait, 50ms);
        EXPECT_LE(wait, ceiling);
        differs |= wait != ceiling;
        ceiling = std::min<Duration>(ceiling * 2, 2s);
    }
    EXPECT_TRUE(differs);
    backoff.reset();
    EXPECT_LE(backoff.next(rng), 100ms);
}

}  // namespace
}  // namespace fedllm::net
