#include "common/net/task_group.hpp"

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/system/system_error.hpp>
#include <list>

#include "common/log/log.hpp"

namespace fedllm::net {
namespace {

struct Task {
    std::string name;
    std::function<void()> ask_to_stop;
    asio::cancellation_signal cancel;
};

void log_end(const std::string& name, const Result<void>& result) {
    if (result) return;
    const Error& error = result.error();
    const bool expected = error.code == Errc::Cancelled || error.code == Errc::PeerClosed;
    const log::Fields fields = {
        {"task", name}, {"error", fedllm::name(error.code)}, {"detail", error.message}};
    if (expected) {
        log::debug("task ended", fields);
    } else {
        log::warn("task failed", fields);
    }
}

// The one place where an exception of a task ends.
Result<void> result_of(std::exception_ptr thrown, Result<void> result) {
    if (!thrown) return result;
    try {
        std::rethrow_exception(thrown);
    } catch (const boost::system::system_error& error) {
        const bool aborted = error.code() == asio::error::operation_aborted;
        return make_error(aborted ? Errc::Cancelled : Errc::Internal, error.what());
    } catch (const std::exception& error) {
        return make_error(Errc::Internal, error.what());
    }
}

}  // namespace

struct TaskGroup::State {
    explicit State(const asio::any_io_executor& executor) : ended(executor) {}

    std::list<Task> tasks;
    Timer ended;  // never fires: cancelled whenever a task ends, which wakes who waits
    bool stopping = false;
};

TaskGroup::TaskGroup(asio::any_io_executor executor)
    : executor_(std::move(executor)), state_(std::make_shared<State>(executor_)) {}

void TaskGroup::spawn(std::string name, awaitable<Result<void>> task, std::function<void()> ask_to_stop) {
    if (state_->stopping) return;
    const auto place = state_->tasks.emplace(state_->tasks.end());
    place->name = std::move(name);
    place->ask_to_stop = std::move(ask_to_stop);
    asio::co_spawn(
        executor_, std::move(task),
        asio::bind_cancellation_slot(place->cancel.slot(),
                                     [state = state_, place](std::exception_ptr thrown, Result<void> result) {
                                         log_end(place->name, result_of(thrown, std::move(result)));
                                         state->tasks.erase(place);
                                         state->ended.cancel();
                                     }));
}

awaitable<Result<void>> TaskGroup::wait_empty(std::shared_ptr<State> state) {
    while (!state->tasks.empty()) (void)co_await state->ended.async_wait(kNoThrow);
    co_return Result<void>{};
}

awaitable<void> TaskGroup::wait() { (void)co_await wait_empty(state_); }

awaitable<void> TaskGroup::stop(Duration grace) {
    state_->stopping = true;
    for (Task& task : state_->tasks) {
        if (task.ask_to_stop) task.ask_to_stop();
    }
    if (co_await within(grace, wait_empty(state_))) co_return;
    for (Task& task : state_->tasks) {
        log::debug("task cancelled", {{"task", task.name}});
        task.cancel.emit(asio::cancellation_type::terminal);
    }
    co_await wait();
}

std::size_t TaskGroup::size() const { return state_->tasks.size(); }
bool TaskGroup::stopping() const { return state_->stopping; }

}  // namespace fedllm::net
