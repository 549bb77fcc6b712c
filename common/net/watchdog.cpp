#include "common/net/watchdog.hpp"

#include <utility>

namespace fedllm::net {

struct Watchdog::State : std::enable_shared_from_this<State> {
    State(const asio::any_io_executor& where, std::function<void()> expire)
        : executor(where), timer(executor), on_expire(std::move(expire)) {}

    // Keeps one wait pending, which ends at `time` or earlier.
    void wake_by(TimePoint time) {
        if (pending && timer.expiry() <= time) return;
        timer.expires_at(time);  // the wait that was pending ends with operation_aborted
        pending = true;
        timer.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
            if (!error) self->wake();
        });
    }

    void wake() {
        pending = false;
        if (!watching) return;
        if (now(executor) < due) return wake_by(due);
        watching = false;
        on_expire();
    }

    asio::any_io_executor executor;
    Timer timer;
    std::function<void()> on_expire;
    TimePoint due;
    bool pending = false;
    bool watching = false;
};

Watchdog::Watchdog(asio::any_io_executor executor, std::function<void()> on_expire)
    : state_(std::make_shared<State>(std::move(executor), std::move(on_expire))) {}

Watchdog::~Watchdog() {
    state_->watching = false;
    state_->timer.cancel();
}

void Watchdog::start(Duration limit) {
    state_->due = now(state_->executor) + limit;
    state_->watching = true;
    state_->wake_by(state_->due);
}

void Watchdog::stop() { state_->watching = false; }

}  // namespace fedllm::net
