#include "common/net/timer.hpp"

#include <algorithm>

namespace fedllm::net {

// What a context knows of its time. When the context goes, its waits go with it, and are not ended.
class VirtualTime::Service final : public asio::execution_context::service {
public:
    using key_type = Service;
    inline static asio::execution_context::id id;

    explicit Service(asio::execution_context& context, VirtualTime* time = nullptr)
        : service(context), time_(time) {}

    VirtualTime* time() const { return time_; }

private:
    void shutdown() override { time_->forget(context()); }

    VirtualTime* time_;
};

void VirtualTime::rule(asio::execution_context& context) { asio::make_service<Service>(context, this); }

VirtualTime* VirtualTime::of(asio::execution_context& context) {
    return asio::has_service<Service>(context) ? asio::use_service<Service>(context).time() : nullptr;
}

std::optional<TimePoint> VirtualTime::next() const {
    if (due_.empty()) return std::nullopt;
    return std::max(now_, due_.begin()->first);
}

void VirtualTime::advance() {
    if (due_.empty()) return;
    const auto [due, id] = *due_.begin();
    advance_to(due);
    end(id, {});
}

std::uint64_t VirtualTime::begin(std::unique_ptr<Wait> wait) {
    const std::uint64_t id = ++last_id_;
    if (wait->due != kNever) due_.emplace(wait->due, id);
    waits_.emplace(id, std::move(wait));
    return id;
}

void VirtualTime::end(std::uint64_t id, boost::system::error_code error) {
    auto found = waits_.extract(id);
    if (found.empty()) return;
    due_.erase({found.mapped()->due, id});
    found.mapped()->end(error);
}

// A handler that is destroyed destroys its coroutine, whose timers end other waits: hence two steps.
void VirtualTime::forget(const asio::execution_context& context) {
    std::vector<std::unique_ptr<Wait>> gone;
    for (auto wait = waits_.begin(); wait != waits_.end();) {
        const bool of_context = wait->second->context == &context;
        if (of_context) {
            due_.erase({wait->second->due, wait->first});
            gone.push_back(std::move(wait->second));
        }
        wait = of_context ? waits_.erase(wait) : std::next(wait);
    }
}

TimePoint now(const asio::any_io_executor& executor) {
    const VirtualTime* const time = VirtualTime::of(executor.context());
    return time == nullptr ? std::chrono::steady_clock::now() : time->now();
}

Timer::Timer(const asio::any_io_executor& executor, TimePoint due)
    : executor_(executor), due_(due), time_(VirtualTime::of(executor.context())) {
    if (time_ == nullptr) real_.emplace(executor, due);
}

void Timer::expires_at(TimePoint due) {
    cancel();
    due_ = due;
    if (real_) real_->expires_at(due);
}

void Timer::expires_after(Duration wait) {
    expires_at((time_ == nullptr ? std::chrono::steady_clock::now() : time_->now()) + wait);
}

void Timer::cancel() {
    if (real_) real_->cancel();
    for (const std::uint64_t id : std::exchange(waits_, {})) time_->end(id, asio::error::operation_aborted);
}

}  // namespace fedllm::net
