// The deadline of a stream of operations: one timer that is looked at, not re-armed, at each step.
//
// A 1 MiB frame arrives in 64 TLS records. Racing each read against its own timer costs as much as decrypting it; here
// a step only stores a time, and the timer, when it fires, goes back to sleep until the earliest time at which the
// deadline could have passed.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "common/net/awaitable.hpp"

namespace fedllm::net {

// Concurrency: all calls on the executor. `on_expire` runs there, at most once per start().
class ProgressWatch {
public:
    ProgressWatch(asio::any_io_executor executor, std::function<void()> on_expire);
    ~ProgressWatch();
    ProgressWatch(const ProgressWatch&) = delete;
    ProgressWatch& operator=(const ProgressWatch&) = delete;

    void start(Duration limit);  // begins a wait of at most `limit` without progress
    void progress();             // the wait begins again
    void stop();
    bool expired() const;        // since the last start()

private:
    struct State;
    std::shared_ptr<State> state_;  // shared with the timer's handler, which may outlive the watch
};

}  // namespace fedllm::net
