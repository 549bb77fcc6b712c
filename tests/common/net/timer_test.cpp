// Virtual time: what takes a minute there takes none here, in an order that is the same each time.
#include <gtest/gtest.h>

#include "common/net/task_group.hpp"
#include "common/net/watchdog.hpp"
#include "tests/common/net/support.hpp"

namespace fedllm::net {
namespace {

class VirtualTimeTest : public testing::Test {
protected:
    VirtualTimeTest() { time_.rule(*loop_); }

    // Runs until nothing is left to do or to wait for.
    void drain() {
        for (;;) {
            loop_->restart();
            loop_->poll();
            if (!time_.next()) return;
            time_.advance();
        }
    }

    template <class T>
    void spawn(awaitable<T> work) {
        asio::co_spawn(*loop_, std::move(work), [](std::exception_ptr thrown, auto&&...) {
            if (thrown) std::rethrow_exception(thrown);
        });
    }

    std::chrono::seconds elapsed() const {
        return std::chrono::duration_cast<std::chrono::seconds>(time_.now().time_since_epoch());
    }

    VirtualTime time_;
    std::optional<asio::io_context> loop_{std::in_place, 1};
    std::vector<std::string> said_;
};

awaitable<Result<int>> answer_after(Duration time) {
    FEDLLM_CO_TRY_VOID(co_await sleep_for(time));
    co_return 7;
}

awaitable<void> say_after(Duration time, std::string word, std::vector<std::string>& said) {
    const auto slept = co_await sleep_for(time);
    said.push_back(slept ? word : "cancelled");
}

TEST_F(VirtualTimeTest, WaitsEndInTheOrderOfTheirTimesAndThenOfTheirBeginnings) {
    spawn(say_after(60s, "c", said_));
    spawn(say_after(30s, "a", said_));
    spawn(say_after(60s, "d", said_));
    spawn(say_after(45s, "b", said_));
    drain();
    EXPECT_EQ(said_, (std::vector<std::string>{"a", "b", "c", "d"}));
    EXPECT_EQ(elapsed(), 60s);
}

awaitable<void> race(std::vector<std::string>& said) {
    const auto executor = co_await asio::this_coro::executor;
    const TimePoint began = now(executor);
    const auto slow = co_await within(50s, answer_after(3600s));
    EXPECT_EQ(slow.error().code, Errc::Timeout);
    EXPECT_EQ(now(executor) - began, 50s);
    const auto fast = co_await within(3600s, answer_after(1s));
    EXPECT_EQ(fast.value(), 7);
    EXPECT_EQ(now(executor) - began, 51s) << "the loser's wait is cancelled, not sat out";
    said.push_back("done");
}

TEST_F(VirtualTimeTest, DeadlinesAreVirtualToo) {
    spawn(race(said_));
    drain();
    EXPECT_EQ(said_.size(), 1u);
}

TEST_F(VirtualTimeTest, AWatchdogBarksAtItsTime) {
    Watchdog dog(loop_->get_executor(), [this] { said_.push_back("bark"); });
    dog.start(10s);
    time_.advance();  // to the time at which its timer looks
    dog.start(10s);   // meanwhile something happened
    drain();
    EXPECT_EQ(said_.size(), 1u);
    EXPECT_EQ(elapsed(), 20s);
}

awaitable<void> many_short_operations(Watchdog& dog) {
    for (int i = 0; i < 20; ++i) {
        dog.start(40s);
        (void)co_await sleep_for(4s);
        dog.stop();
    }
    (void)co_await sleep_for(60s);
}

TEST_F(VirtualTimeTest, AWatchdogOfOperationsThatEndInTimeStaysQuiet) {
    Watchdog dog(loop_->get_executor(), [this] { said_.push_back("bark"); });
    spawn(many_short_operations(dog));
    drain();
    EXPECT_EQ(said_, std::vector<std::string>{});
    EXPECT_EQ(elapsed(), 140s);
}

awaitable<Result<void>> waits_for_ever(std::vector<std::string>& said) {
    Timer never(co_await asio::this_coro::executor);
    const auto [error] = co_await never.async_wait(kNoThrow);
    said.push_back(error == asio::error::operation_aborted ? "aborted" : "?");
    co_return Result<void>{};
}

awaitable<void> stops(TaskGroup& group) { co_await group.stop(5s); }

TEST_F(VirtualTimeTest, ATaskThatIsCancelledEndsItsWait) {
    TaskGroup group(loop_->get_executor());
    group.spawn("waits", waits_for_ever(said_));
    drain();
    EXPECT_TRUE(said_.empty());
    spawn(stops(group));
    drain();
    EXPECT_EQ(said_, std::vector<std::string>{"aborted"});
    EXPECT_EQ(elapsed(), 5s) << "after the grace";
}

TEST_F(VirtualTimeTest, AContextThatGoesTakesItsWaitsWithIt) {
    asio::io_context other(1);
    time_.rule(other);
    asio::co_spawn(other, say_after(2s, "other", said_), [](std::exception_ptr) {});
    spawn(say_after(1s, "gone", said_));
    spawn(race(said_));
    Timer outlives(loop_->get_executor(), Duration(1s));
    outlives.async_wait([this](const boost::system::error_code&) { said_.push_back("gone too"); });
    loop_->poll();
    other.poll();
    loop_.reset();  // as in a crash: nothing runs on
    while (time_.next()) {
        time_.advance();
        other.restart();
        other.poll();
    }
    EXPECT_EQ(said_, std::vector<std::string>{"other"});
    loop_.emplace(1);  // for the fixture
}

TEST(Timer, IsRealWhereNobodySaysOtherwise) {
    asio::io_context loop(1);
    Timer timer(loop.get_executor(), Duration(5));
    bool rang = false;
    timer.async_wait([&](const boost::system::error_code& error) { rang = !error; });
    const TimePoint began = now(loop.get_executor());
    loop.run();
    EXPECT_TRUE(rang);
    EXPECT_GE(now(loop.get_executor()) - began, 4ms);
}

}  // namespace
}  // namespace fedllm::net
