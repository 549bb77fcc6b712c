#include "common/net/awaitable.hpp"

namespace fedllm::net {

awaitable<Result<void>> sleep_for(Duration time) {
    Timer timer(co_await asio::this_coro::executor, time);
    const auto [ec] = co_await timer.async_wait(kNoThrow);
    if (ec) co_return make_error(Errc::Cancelled, "a wait was cancelled");
    co_return Result<void>{};
}

}  // namespace fedllm::net
