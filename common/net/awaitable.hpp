// The few names of Boost.Asio that our signatures use, and the one place where a deadline meets an operation.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/experimental/parallel_group.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <optional>
#include <utility>

#include "common/base/clock.hpp"
#include "common/base/result.hpp"
#include "common/net/timer.hpp"

namespace fedllm::net {

template <class T>
using awaitable = asio::awaitable<T>;

// Completion token: errors come back as a value, `auto [ec, n] = co_await f(kNoThrow);`.
inline constexpr auto kNoThrow = asio::as_tuple(asio::use_awaitable);

template <class T>
awaitable<std::optional<Result<T>>> as_optional(awaitable<Result<T>> work) {
    co_return co_await std::move(work);
}

// `work`, or Timeout after `limit`. Work that loses the race is cancelled and awaited before this returns, so
// what it borrows need not outlive the call. (asio::cancel_after needs Boost 1.86.)
template <class T>
awaitable<Result<T>> within(Duration limit, awaitable<Result<T>> work) {
    const auto executor = co_await asio::this_coro::executor;
    Timer timer(executor, limit);
    auto [order, thrown, result, timer_error] =
        co_await asio::experimental::make_parallel_group(
            asio::co_spawn(executor, as_optional(std::move(work)), asio::deferred),
            timer.async_wait(asio::deferred))
            .async_wait(asio::experimental::wait_for_one(), asio::use_awaitable);
    if (order[0] == 1 && !timer_error) {
        co_return make_error(Errc::Timeout, "nothing for " + std::to_string(limit.count()) + " ms");
    }
    if (thrown) std::rethrow_exception(thrown);
    co_return std::move(*result);
}

// Waits. Cancelled when the task is being stopped.
awaitable<Result<void>> sleep_for(Duration time);

}  // namespace fedllm::net
