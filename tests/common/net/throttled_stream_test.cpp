// Rates: no more bytes than the time allows. Only lower bounds of time are asserted: a busy machine is slow,
// too.
#include "common/net/throttled_stream.hpp"

#include "tests/common/net/support.hpp"

namespace fedllm::net {
namespace {

TEST(RateLimitTest, GivesWhatTimeHasEarned) {
    const TimePoint start{};
    RateLimit limit(1000, start);
    EXPECT_EQ(limit.allowance(10'000, start), 250u) << "a quarter of a second is saved up";
    limit.use(250);
    EXPECT_EQ(limit.allowance(10'000, start), 0u);
    EXPECT_GE(limit.wait(), 20ms);
    EXPECT_EQ(limit.allowance(10'000, start + 10ms), 0u) << "not worth waking for";
    EXPECT_EQ(limit.allowance(5, start + 10ms), 5u) << "unless it is all that is wanted";
    EXPECT_EQ(limit.allowance(10'000, start + 100ms), 100u);
    EXPECT_EQ(limit.allowance(10'000, start + 10s), 250u) << "idle time is not saved up for ever";
    EXPECT_EQ(RateLimit(0, start).allowance(10'000, start), 10'000u);
}

TEST(RateLimitTest, ALongRunKeepsToTheRate) {
    TimePoint time{};
    RateLimit limit(16'384, time);
    std::size_t total = 0;
    for (const TimePoint end = time + 60s; time < end; time += limit.wait()) {
        const std::size_t allowed = limit.allowance(1 << 20, time);
        limit.use(allowed);
        total += allowed;
    }
    EXPECT_LE(total, 60u * 16'384 + 16'384 / 4);
    EXPECT_GE(total, 59u * 16'384);
}

awaitable<Result<void>> write_all(Stream& stream, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        FEDLLM_CO_TRY(const std::size_t count, co_await stream.write_some(bytes));
        bytes = bytes.subspan(count);
    }
    co_return Result<void>{};
}

awaitable<void> carry(Rates near, Rates far, Duration& took) {
    const auto executor = co_await asio::this_coro::executor;
    auto [a, b] = make_memory_streams(executor, 4096);
    const auto sender = throttled(std::move(a), near), receiver = throttled(std::move(b), far);
    const std::vector<std::byte> bytes(48'000, std::byte{3});
    std::vector<std::byte> buffer(65'536);
    std::optional<Result<void>> sent;
    const TimePoint start = now(executor);
    net::start(executor, write_all(*sender, bytes), sent);
    for (std::size_t total = 0; total < bytes.size();) {
        const auto count = co_await receiver->read_some(buffer);
        EXPECT_TRUE(count);
        if (!count) break;
        total += *count;
    }
    took = std::chrono::duration_cast<Duration>(now(executor) - start);
    co_await until([&] { return sent.has_value(); });
}

// 48,000 bytes at 64,000 a second, 16,000 of them at once: half a second.
TEST(ThrottledStreamTest, SendsAndReceivesNoFaster) {
    asio::io_context loop;
    Duration sending{}, receiving{};
    run(loop, carry({.sent_max = 64'000}, {}, sending));
    run(loop, carry({}, {.received_max = 64'000}, receiving));
    EXPECT_GE(sending, 480ms);
    EXPECT_GE(receiving, 400ms) << "what the pipe holds has been sent but not read";
}

// Its time stands still: nothing but close() can end the wait.
TEST(ThrottledStreamTest, CloseEndsItsWait) {
    VirtualTime time;
    asio::io_context loop;
    time.rule(loop);
    auto [a, b] = make_memory_streams(loop.get_executor(), 4096);
    const auto stream = throttled(std::move(a), {.sent_max = 4});
    const std::vector<std::byte> bytes(100);
    std::optional<Result<std::size_t>> first, second;
    start(loop.get_executor(), stream->write_some(bytes), first);
    loop.poll();
    ASSERT_TRUE(first && *first) << "what is saved up goes at once";
    start(loop.get_executor(), stream->write_some(bytes), second);
    loop.restart();
    loop.poll();
    EXPECT_FALSE(second);
    stream->close();
    loop.restart();
    loop.poll();
    ASSERT_TRUE(second);
    EXPECT_EQ(second->error().code, Errc::Cancelled);
}

}  // namespace
}  // namespace fedllm::net
