// The daemon: keeps a connection to the server, carries out what the machine decides, and has the worker do
// it.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "client/agent/client_config.hpp"
#include "client/agent/connection.hpp"
#include "client/agent/machine.hpp"
#include "client/agent/task.hpp"
#include "client/agent/worker.hpp"
#include "client/observe/metrics.hpp"
#include "common/admin/page.hpp"
#include "common/net/backoff.hpp"

namespace fedllm::client::agent {

// Makes a fresh stream to the server: TLS in production, memory in tests.
using Connector = std::function<net::awaitable<Result<std::unique_ptr<net::Stream>>>()>;

struct AgentOptions {
    protocol::Limits limits;
    net::BackoffOptions backoff;
    Duration worker_grace = std::chrono::seconds(3);  // how long stopping waits for the worker
    // For simulated worlds. Where the worker runs: none means on a thread of its own.
    std::optional<net::asio::any_io_executor> worker_executor{};
    std::optional<std::uint64_t> jitter_seed{};  // of the back-off; none: nobody can foretell it
};

// Lifecycle: open(); run() once, which returns after stop(). If worker_busy() is still true then, training
// did not stop within the grace: the process should leave with std::_Exit, for nothing on disk is
// half-written, ever. Concurrency: all calls on the executor, which must be single-threaded; the work itself
// has its own thread.
class Agent {
public:
    static Result<std::unique_ptr<Agent>> open(net::asio::any_io_executor executor,
                                               const ClientConfig& config, Connector connect,
                                               AgentOptions options = {},
                                               const WorkerMaker& make_worker = make_workbench);

    // Connects again and again, until stop().
    net::awaitable<Result<void>> run();

    // SIGTERM: stops the training, says Goodbye. run() then ends within a few seconds.
    void stop();

    bool worker_busy() const { return machine_.working(); }

private:
    Agent(net::asio::any_io_executor executor, const ClientConfig& config, Connector connect,
          AgentOptions options, VersionStore versions, update::UpdateStore updates,
          std::unique_ptr<Worker> worker);

    net::awaitable<Result<std::unique_ptr<net::Stream>>> connect_or_stop();
    net::awaitable<Result<void>> converse(std::unique_ptr<net::Stream> stream);
    net::awaitable<Result<void>> listen(Connection& connection);
    Result<void> open_admin_page();
    net::awaitable<void> wait_for_worker();
    double seconds() const;  // since some fixed point, in the executor's time
    protocol::ClientMessage hello() const;

    Result<void> on_frame(const protocol::Frame& frame);
    Result<void> on_message(const protocol::ServerMessage& message);
    Result<void> on_chunk(const protocol::Frame& frame);
    void measure_link();
    void on_progress(const Progressed& event);
    void on_worker_done(const TaskId& id, std::exception_ptr thrown, std::optional<Event> event);

    void apply(const Event& event);
    void carry_out(const Prepare& effect);
    void fetch_next();
    void carry_out(const MakeInitial& effect);
    void carry_out(const StartWork& effect);
    void carry_out(const StopWork& effect);
    void carry_out(const SendProgress& effect) { send(to_message(effect)); }
    void carry_out(const SendOffer& effect) { send(to_message(effect)); }
    void carry_out(const SendEvaluation& effect) { send(to_message(effect)); }
    void carry_out(const SendDecline& effect) { send(to_message(effect)); }
    void carry_out(const Upload& effect);
    void carry_out(const DropUpdate& effect);
    void carry_out(const Disconnect& effect);
    void carry_out(const SendGoodbye& effect);
    void carry_out(const Say& effect);
    void send(protocol::ClientMessage message);

    net::asio::any_io_executor executor_;
    ClientConfig config_;
    Connector connect_;
    AgentOptions options_;
    VersionStore versions_;
    update::UpdateStore updates_;
    std::unique_ptr<Worker> worker_;
    observe::Metrics metrics_;
    std::unique_ptr<admin::Page> admin_;  // where the configuration asks for it

    Machine machine_;
    ClientId name_;                          // as the server knows us, since the first Welcome
    Connection* connection_ = nullptr;       // while there is one; it lives in converse()
    std::uint64_t moved_ = 0;                // bytes of the last connection, both ways
    Prepare preparing_;                      // the latest
    std::optional<VersionWriter> download_;  // of the current task
    std::optional<job::JobSpec> seeded_;     // the job whose first version was made from the seed, or tried
    struct {
        double began = 0;  // monotonic seconds
        std::size_t bytes = 0;
    } upload_;                          // that waits for its verdict
    double link_bytes_per_second_ = 0;  // as the last upload went
    std::stop_source stop_work_;
    double progress_said_ = 0;  // when the last progress line was logged, monotonic seconds
    net::Timer pause_;          // cancelled by stop(), and when the worker is done
    net::Timer farewell_;       // after stop(): when a connection that hangs is closed
    std::optional<net::asio::thread_pool> worker_thread_;  // last: joined first
    net::asio::any_io_executor worker_executor_;
};

}  // namespace fedllm::client::agent
