// Time as our coroutines see it: real, or virtual where an execution context was told so (simulated worlds).
#pragma once

#include <algorithm>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "common/base/clock.hpp"

namespace fedllm::net {

namespace asio = boost::asio;

using TimePoint = std::chrono::steady_clock::time_point;

// For a timer that only its cancellation ends.
inline constexpr TimePoint kNever = TimePoint::max();

// The executor's time: for deciding as well as for measuring.
TimePoint now(const asio::any_io_executor& executor);

// A time that stands still until advance(): the waits of all timers in it, in one order.
//
// Lifecycle: outlives the contexts that use it. Concurrency: one thread.
class VirtualTime {
public:
    // Every Timer of `context` that is made from now on is in this time.
    void rule(asio::execution_context& context);

    TimePoint now() const { return now_; }
    // When the next wait ends; none: nothing waits, or all for ever.
    std::optional<TimePoint> next() const;
    // Goes there, and ends that one wait: of those that are due together, the one that began first.
    void advance();
    // Goes on to `time`; to be called only up to next().
    void advance_to(TimePoint time) { now_ = std::max(now_, time); }

private:
    friend class Timer;
    friend TimePoint net::now(const asio::any_io_executor& executor);
    class Service;
    struct Wait {
        virtual ~Wait() = default;
        virtual void end(boost::system::error_code error) = 0;  // posts the handler
        asio::execution_context* context = nullptr;
        TimePoint due;
    };
    template <class Handler>
    struct WaitFor;

    static VirtualTime* of(asio::execution_context& context);
    std::uint64_t begin(std::unique_ptr<Wait> wait);
    void end(std::uint64_t id, boost::system::error_code error);  // nothing, if it has ended
    void forget(const asio::execution_context& context);

    TimePoint now_{};
    std::uint64_t last_id_ = 0;
    std::map<std::uint64_t, std::unique_ptr<Wait>> waits_;
    std::set<std::pair<TimePoint, std::uint64_t>> due_;  // not those that never end
};

// asio::steady_timer in the executor's time. Concurrency: as that.
class Timer {
public:
    explicit Timer(const asio::any_io_executor& executor, TimePoint due = kNever);
    Timer(const asio::any_io_executor& executor, Duration wait) : Timer(executor) { expires_after(wait); }
    ~Timer() { cancel(); }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

    // Both end the waits that are pending with operation_aborted, as cancel() does.
    void expires_at(TimePoint due);
    void expires_after(Duration wait);
    void cancel();
    TimePoint expiry() const { return due_; }

    // Signature: void(error_code).
    template <class Token>
    auto async_wait(Token&& token) {
        return asio::async_initiate<Token, void(boost::system::error_code)>(
            [](auto handler, Timer* timer) { timer->start(std::move(handler)); }, token, this);
    }

private:
    template <class Handler>
    void start(Handler handler);

    asio::any_io_executor executor_;
    TimePoint due_;
    VirtualTime* time_ = nullptr;  // none: it is real_ that waits
    std::optional<asio::steady_timer> real_;
    std::vector<std::uint64_t> waits_;  // in time_; those that have ended among them
};

template <class Handler>
struct VirtualTime::WaitFor final : Wait {
    WaitFor(Handler wrapped, asio::any_io_executor timers)
        : handler(std::move(wrapped)), executor(std::move(timers)) {}

    void end(boost::system::error_code error) override {
        const auto where = asio::get_associated_executor(handler, executor);
        asio::post(where, [handler = std::move(handler), error]() mutable { std::move(handler)(error); });
    }

    Handler handler;
    asio::any_io_executor executor;
};

template <class Handler>
void Timer::start(Handler handler) {
    if (time_ == nullptr) {
        real_->async_wait(std::move(handler));
        return;
    }
    auto slot = asio::get_associated_cancellation_slot(handler);
    auto wait = std::make_unique<VirtualTime::WaitFor<Handler>>(std::move(handler), executor_);
    wait->context = &executor_.context();
    wait->due = due_;
    const std::uint64_t id = time_->begin(std::move(wait));
    waits_.push_back(id);
    if (!slot.is_connected()) return;
    slot.assign([time = time_, id](asio::cancellation_type type) {
        if (type != asio::cancellation_type::none) time->end(id, asio::error::operation_aborted);
    });
}

}  // namespace fedllm::net
