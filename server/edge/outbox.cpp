#include "server/edge/outbox.hpp"

namespace fedllm::server::edge {

void Outbox::push(protocol::ServerMessage message) {
    if (closed_) return;
    messages_.push_back(std::move(message));
    changed_.cancel();
}

void Outbox::close() {
    closed_ = true;
    changed_.cancel();
}

net::awaitable<Result<void>> Outbox::run() {
    for (;;) {
        while (!messages_.empty()) {
            const protocol::ServerMessage message = std::move(messages_.front());
            messages_.pop_front();
            FEDLLM_CO_TRY_VOID(session_.on_send(protocol::kind_of(message), protocol::task_of(message)));
            FEDLLM_CO_TRY_VOID(co_await channel_.send_control(message));
        }
        if (closed_ || channel_.closed()) co_return Result<void>{};
        co_await wait();
    }
}

net::awaitable<void> Outbox::wait() {
    changed_.expires_at(net::kNever);
    [[maybe_unused]] auto [woken] = co_await changed_.async_wait(net::kNoThrow);
}

net::awaitable<Result<void>> keep_alive(net::Channel& channel, Outbox& outbox, Duration every) {
    while (!channel.closed()) {
        if (channel.silent_for() >= every) {
            protocol::ServerMessage ping;
            ping.mutable_ping();
            outbox.push(std::move(ping));
        }
        FEDLLM_CO_TRY_VOID(co_await net::sleep_for(every / 2));
    }
    co_return Result<void>{};
}

}  // namespace fedllm::server::edge
