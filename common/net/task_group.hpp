// Tasks that end with their owner. Nothing in this project is spawned detached.
#pragma once

#include <functional>
#include <list>
#include <string>

#include "common/net/awaitable.hpp"

namespace fedllm::net {

// Lifecycle: spawn; then co_await stop(grace), which ends with no task left. Destroying a group that still has tasks is
// a programmer error, unless its executor has stopped for good.
// Concurrency: all calls and all tasks on one executor (one thread or one strand).
class TaskGroup {
public:
    explicit TaskGroup(asio::any_io_executor executor);
    ~TaskGroup();
    TaskGroup(const TaskGroup&) = delete;
    TaskGroup& operator=(const TaskGroup&) = delete;

    // Starts `task`. An error it returns is logged under `name` (Cancelled and PeerClosed quietly), an exception that
    // escapes it is logged as a defect; neither stops the others. `ask_to_stop` is the gentle way to end it: close its
    // channel, cancel its timer. After stop() has begun, a task is refused: it is destroyed without running.
    void spawn(std::string name, awaitable<Result<void>> task, std::function<void()> ask_to_stop = {});

    // Asks every task to stop, waits up to `grace`, cancels what is left, waits for it.
    awaitable<void> stop(Duration grace);
    // Waits until no task is left, without asking any to stop.
    awaitable<void> wait();

    std::size_t size() const { return tasks_.size(); }
    bool stopping() const { return stopping_; }

private:
    struct Task;
    awaitable<bool> wait_empty(Duration limit);

    asio::any_io_executor executor_;
    std::list<Task> tasks_;
    asio::steady_timer changed_;  // cancelled whenever a task ends: wakes wait()
    bool stopping_ = false;
};

}  // namespace fedllm::net
