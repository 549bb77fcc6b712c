// The server as a whole: its parts, in the order in which they start and stop.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <memory>
#include <optional>

#include "common/admin/page.hpp"
#include "common/base/clock.hpp"
#include "common/net/task_group.hpp"
#include "server/app/server_config.hpp"
#include "server/edge/listener.hpp"
#include "server/engine/engine.hpp"
#include "server/observe/metrics.hpp"

namespace fedllm::server::app {

// Lifecycle: run() until a signal (SIGTERM, SIGINT) or request_stop(), then sessions are told Goodbye, the
// round's state is on disk, and run() returns; an error means the process should end with a failure.
// Concurrency: run() uses the calling thread for the control strand; request_stop() may come from any thread.
class Server {
public:
    static Result<std::unique_ptr<Server>> create(const ServerConfig& config);

    Result<void> run();
    void request_stop();

    std::uint16_t port() const { return listener_->port(); }
    std::uint16_t admin_port() const { return admin_->port(); }

private:
    explicit Server(const ServerConfig& config);
    admin::Content admin_content();
    net::awaitable<Result<void>> watch_signals();
    net::awaitable<void> shut_down();

    ServerConfig config_;
    SystemClock clock_;
    observe::Metrics metrics_;
    net::asio::io_context io_{1};
    std::optional<Error> fatal_;
    std::unique_ptr<engine::Engine> engine_;
    std::unique_ptr<edge::Listener> listener_;
    std::unique_ptr<admin::Page> admin_;
    net::Timer stop_;  // cancelled to begin the shutdown
    bool stopping_ = false;
    net::TaskGroup tasks_;
};

}  // namespace fedllm::server::app
