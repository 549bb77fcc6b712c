// Heavy work off the control strand: a plain function runs on a pool, its result comes back to the caller's
// executor.
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

#include "common/net/awaitable.hpp"

namespace fedllm::net {

template <class Work>
awaitable<std::optional<std::invoke_result_t<Work>>> run_once(Work work) {
    co_return work();
}

// `work` is called once, on `pool`; what it borrows must outlive the call. It cannot be cancelled: the caller
// waits. (Not by co_spawn on the pool: in Boost 1.81 that passes a cancellation on to the pool as a bare
// pointer into the caller's frame, which the work's end may have freed by the time it gets there.)
template <class Work>
awaitable<std::invoke_result_t<Work>> offload(asio::any_io_executor pool, Work work) {
    std::optional<std::invoke_result_t<Work>> result;
    std::exception_ptr thrown;
    const auto start = [&](auto handler) {
        const auto caller = asio::get_associated_executor(handler);
        asio::post(pool, [&, guard = asio::make_work_guard(caller), handler = std::move(handler)]() mutable {
            try {
                result.emplace(work());
            } catch (...) {
                thrown = std::current_exception();
            }
            asio::post(guard.get_executor(), std::move(handler));
        });
    };
    co_await asio::async_initiate<const asio::use_awaitable_t<>&, void()>(start, asio::use_awaitable);
    if (thrown) std::rethrow_exception(thrown);
    co_return std::move(*result);
}

}  // namespace fedllm::net
