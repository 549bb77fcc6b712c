#include "common/net/task_group.hpp"

#include <gtest/gtest.h>

#include "common/log/log.hpp"
#include "tests/common/net/support.hpp"

namespace fedllm::net {
namespace {

class TaskGroupTest : public ::testing::Test {
protected:
    void SetUp() override {
        log::setup({.level = log::Level::Info,
                    .sink = [this](std::string_view line) { log_ += std::string(line) + "\n"; }});
    }
    void TearDown() override { log::setup({}); }

    asio::io_context loop_;
    std::string log_;
};

awaitable<Result<void>> ends_when(const bool& asked, int& ended) {
    while (!asked) FEDLLM_CO_TRY_VOID(co_await sleep_for(1ms));
    ++ended;
    co_return Result<void>{};
}

awaitable<Result<void>> never_ends(int& destroyed) {
    struct Count {
        int& value;
        ~Count() { ++value; }
    } count{destroyed};
    FEDLLM_CO_TRY_VOID(co_await sleep_for(std::chrono::hours(1)));
    co_return Result<void>{};
}

awaitable<Result<void>> fails() { co_return make_error(Errc::NotFound, "a file of the task"); }

awaitable<Result<void>> throws() {
    throw std::runtime_error("a defect");
    co_return Result<void>{};
}

awaitable<void> gently_then_hard(int& ended, int& destroyed) {
    TaskGroup group(co_await asio::this_coro::executor);
    bool asked = false;
    group.spawn("gentle", ends_when(asked, ended), [&] { asked = true; });
    group.spawn("stubborn", never_ends(destroyed));
    EXPECT_EQ(group.size(), 2u);
    co_await group.stop(50ms);
    EXPECT_EQ(group.size(), 0u);
    EXPECT_EQ(ended, 1);
    EXPECT_EQ(destroyed, 1);
    group.spawn("late", never_ends(destroyed));
    EXPECT_EQ(group.size(), 0u);
}

TEST_F(TaskGroupTest, StopsGentlyThenHardAndJoins) {
    int ended = 0, destroyed = 0;
    run(loop_, gently_then_hard(ended, destroyed));
    EXPECT_EQ(log_, "");
}

awaitable<void> failing_tasks() {
    TaskGroup group(co_await asio::this_coro::executor);
    group.spawn("first", fails());
    group.spawn("second", throws());
    co_await group.wait();
    EXPECT_EQ(group.size(), 0u);
}

TEST_F(TaskGroupTest, FailuresAreLoggedByNameAndStayAlone) {
    run(loop_, failing_tasks());
    EXPECT_NE(log_.find("task=first error=not_found detail=\"a file of the task\""), std::string::npos)
        << log_;
    EXPECT_NE(log_.find("task=second error=internal detail=\"a defect\""), std::string::npos) << log_;
}

}  // namespace
}  // namespace fedllm::net
