// Heavy work off the control strand: a plain function runs on a pool, its result comes back to the caller's
// executor.
#pragma once

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
// waits.
template <class Work>
awaitable<std::invoke_result_t<Work>> offload(asio::any_io_executor pool, Work work) {
    auto result = co_await asio::co_spawn(pool, run_once(std::move(work)), asio::use_awaitable);
    co_return std::move(*result);
}

}  // namespace fedllm::net
