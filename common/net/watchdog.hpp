// A deadline around a stream of operations: one timer that is looked at, not re-armed, at each of them.
//
// A 1 MiB frame arrives in 64 TLS records. Racing each read against a timer of its own costs as much as
// decrypting it; here starting and stopping store a time, and the timer, when it fires, goes back to sleep if
// nothing is overdue.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "common/net/awaitable.hpp"

namespace fedllm::net {

// Concurrency: all calls on the executor; `on_expire` runs there, at most once per start().
class Watchdog {
public:
    Watchdog(asio::any_io_executor executor, std::function<void()> on_expire);
    ~Watchdog();
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;

    void start(Duration limit);
    void stop();

private:
    struct State;
    std::shared_ptr<State> state_;  // shared with the timer's handler, which may outlive the watchdog
};

}  // namespace fedllm::net
