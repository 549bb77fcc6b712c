// Tasks that end with their owner. Nothing in this project is spawned detached.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/net/awaitable.hpp"

namespace fedllm::net {

// Lifecycle: spawn; then co_await stop(grace), which ends with no task left. After that the group may go.
// (Only a program that dies anyway destroys a group with tasks in it; they are then destroyed with their
// executor, without running on.) Concurrency: all calls and all tasks on one executor (one thread or one
// strand).
class TaskGroup {
public:
    explicit TaskGroup(asio::any_io_executor executor);
    TaskGroup(const TaskGroup&) = delete;
    TaskGroup& operator=(const TaskGroup&) = delete;

    // Starts `task`. An error it returns is logged under `name` (Cancelled and PeerClosed quietly), an
    // exception that escapes it is logged as a defect; neither stops the others. `ask_to_stop` is the gentle
    // way to end it: close its channel, cancel its timer. After stop() has begun, a task is refused: it is
    // destroyed without running.
    void spawn(std::string name, awaitable<Result<void>> task, std::function<void()> ask_to_stop = {});

    // Asks every task to stop, waits up to `grace`, cancels what is left, waits for it.
    awaitable<void> stop(Duration grace);
    // Waits until no task is left, without asking any to stop.
    awaitable<void> wait();

    std::size_t size() const;
    bool stopping() const;

private:
    struct State;
    static awaitable<Result<void>> wait_empty(std::shared_ptr<State> state);

    asio::any_io_executor executor_;
    std::shared_ptr<State> state_;  // shared with the tasks' completion handlers
};

}  // namespace fedllm::net
