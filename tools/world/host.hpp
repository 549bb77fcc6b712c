// Where a process of the world runs: a context of its own in virtual time, and a slow executor for heavy
// work.
#pragma once

#include <boost/asio/io_context.hpp>
#include <memory>
#include <utility>

#include "common/base/philox.hpp"
#include "common/net/timer.hpp"

namespace fedllm::tools::world {

namespace asio = net::asio;

// How long heavy work takes before it is done; what happens meanwhile, happens before it.
struct Slowness {
    Rng rng;
    std::chrono::microseconds most{0};
};

// Executes on the context, later: what a pool of threads is in a world of one thread.
class SlowExecutor {
public:
    SlowExecutor(asio::io_context& context, Slowness& slowness) : context_(&context), slowness_(&slowness) {}

    asio::execution_context& query(asio::execution::context_t) const noexcept { return *context_; }
    static constexpr asio::execution::blocking_t query(asio::execution::blocking_t) noexcept {
        return asio::execution::blocking.never;
    }

    // Through the context's queue: a context that is being destroyed drops what comes to it then.
    template <class Function>
    void execute(Function function) const {
        asio::post(*context_, [self = *this, function = std::move(function)]() mutable {
            self.start(std::move(function));
        });
    }

    bool operator==(const SlowExecutor&) const noexcept = default;

private:
    template <class Function>
    void start(Function function) const {
        const auto most = static_cast<std::uint64_t>(slowness_->most.count());
        const std::chrono::microseconds wait(most > 0 ? slowness_->rng.below(most) : 0);
        const auto executor = context_->get_executor();
        auto timer = std::make_unique<net::Timer>(executor, net::now(executor) + wait);
        net::Timer& started = *timer;
        started.async_wait([timer = std::move(timer), function = std::move(function)](
                               const boost::system::error_code&) mutable { std::move(function)(); });
    }

    asio::io_context* context_;
    Slowness* slowness_;
};

// Lifecycle: crash() destroys whatever runs or waits here, without letting it run on, and then the objects
// that it used, by `drop`. Then it is as new.
class Host {
public:
    Host(net::VirtualTime& time, Rng rng) : time_(time), slowness_{rng} { start(); }

    asio::io_context& context() { return *context_; }
    asio::any_io_executor executor() { return context_->get_executor(); }
    asio::any_io_executor slow_executor() { return SlowExecutor(*context_, slowness_); }
    void set_slowness(std::chrono::microseconds most) { slowness_.most = most; }

    // One handler; false: none was ready.
    bool run_one() {
        if (context_->stopped()) context_->restart();
        return context_->poll_one() > 0;
    }
    // The context itself goes last: what is dropped has strands of it.
    template <class Drop>
    void crash(Drop drop) {
        context_->shutdown();
        context_->shutdown();  // what the first one destroyed may have begun something
        drop();
        start();
    }

private:
    struct Context : asio::io_context {
        using asio::io_context::io_context;
        using asio::io_context::shutdown;  // its first half of a destruction
    };

    void start() {
        context_ = std::make_unique<Context>(1);
        time_.rule(*context_);
    }

    net::VirtualTime& time_;
    Slowness slowness_;
    std::unique_ptr<Context> context_;
};

}  // namespace fedllm::tools::world
