// The server's centre: clients and operators come in, the round machine decides, its effects are carried out.
// It knows connections only as Links; sockets are in server/edge.
//
//   session --Hello, Offer, ...--> Engine --Event--> round::step --Effect--> ledger, Links, the pool
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/clock.hpp"
#include "common/job/job_spec.hpp"
#include "common/net/awaitable.hpp"
#include "common/net/identity.hpp"
#include "common/net/task_group.hpp"
#include "server/engine/intake.hpp"
#include "server/engine/link.hpp"
#include "server/engine/retention.hpp"
#include "server/observe/metrics.hpp"
#include "server/registry/registry.hpp"
#include "server/round/outlook.hpp"
#include "server/round/schedule.hpp"
#include "server/store/ledger.hpp"
#include "server/store/state_directory.hpp"
#include "server/store/versions.hpp"

namespace fedllm::server::engine {

struct EngineOptions {
    Path state_directory;
    std::uint64_t upload_bytes_max = std::uint64_t{64} << 30;
    unsigned threads = 0;  // of the compute pool; 0: one per core
    RetentionRules retention;
    // Where the pool's work runs instead, for simulated worlds.
    std::optional<net::asio::any_io_executor> compute{};
};

// Verified bytes of a version or a step. Who shares: every connection that is sending them, and the engine's
// cache.
using SharedVersion = std::shared_ptr<const MappedFile>;

// Lifecycle: open, start, and stop before destruction.
// Jobs run side by side, each with its own state machine. A client does one task at a time: while one job's
// task holds it, the other jobs see it as busy; see round::Schedule for who gets it next.
// Concurrency: everything on one strand; file and number work goes to the pool and comes back.
// After a failure of the ledger `on_fatal` is called: the process should end, and start again from the disk.
class Engine {
public:
    static Result<std::unique_ptr<Engine>> open(net::asio::any_io_executor strand,
                                                const EngineOptions& options, const Clock& clock,
                                                observe::Metrics& metrics,
                                                std::function<void(const Error&)> on_fatal);
    ~Engine();
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    Result<void> start();  // takes up the jobs that a previous process left
    net::awaitable<void> stop();

    // Clients. A Link is used until leave(), or until a newer connection of the same client replaces it.
    registry::SessionId join(const ClientId& client, const protocol::Hello& hello, Link& link);
    void leave(const ClientId& client, registry::SessionId session);
    void on_progress(const ClientId& client, const protocol::Progress& progress);
    void heard_of(const ClientId& client);  // any frame: it is alive
    void on_decline(const ClientId& client, const protocol::Decline& decline);
    void count_download(const ClientId& client, std::uint64_t bytes);

    // What ends in a Verdict posts it to `reply` before anything that follows from it, such as the next Task.
    void on_evaluation(const ClientId& client, const protocol::Evaluation& evaluation, Link& reply);
    // Take the update's bytes from held() on; nothing when the Verdict was given at once.
    net::awaitable<std::unique_ptr<Intake>> on_offer(ClientId client, protocol::Offer offer, Link& reply);
    net::awaitable<Result<void>> take(Intake& intake, std::uint64_t offset, std::span<const std::byte> bytes);
    net::awaitable<void> finish_upload(std::unique_ptr<Intake> intake, Link& reply);
    net::awaitable<void> refuse_upload(std::unique_ptr<Intake> intake, Error error, Link& reply);

    // A version's bytes, or a step's.
    net::awaitable<Result<SharedVersion>> version(std::string digest);

    // Operators. `initial` holds the safetensors file of the first version.
    Result<ingest::Upload> begin_submission(const std::string& operator_name,
                                            const protocol::SubmitJob& request);
    net::awaitable<Result<JobId>> submit(protocol::SubmitJob request, ingest::Upload initial);
    Result<protocol::JobList> list_jobs() const;
    Result<protocol::JobReport> report(const JobId& id) const;
    // Pause, resume, stop. Asking twice is as once; Stale for a job that is over.
    Result<protocol::JobSummary> control(const std::string& operator_name,
                                         const protocol::ControlJob& request);
    Result<protocol::AuditRows> audit_rows(const protocol::AuditJob& request) const;  // one page
    // Of a job ("j1"), one of its rounds ("j1/3"), or a client. NotFound.
    Result<protocol::Because> why(const std::string& subject) const;

    // For simulated worlds, which check what is there against what they saw.
    const store::Ledger& ledger() const { return ledger_; }
    const store::Versions& versions() const { return versions_; }

private:
    struct LivePart {  // what a client said about its work since it was asked
        std::uint32_t step = 0;
        std::uint32_t steps = 0;
        double loss = 0;
        std::uint64_t bytes_up = 0;
        std::uint64_t bytes_down = 0;
        bool uploading = false;
        Timestamp asked{};     // when its task was first sent
        Timestamp heard{};     // when it last said something about it
        Timestamp reported{};  // when its job was last told that it is alive
    };
    struct ActiveJob {
        JobId id;
        job::JobSpec spec;
        std::string yaml;
        tensor::Manifest manifest;
        round::JobState state;
        std::string last_wait;  // what was last logged as waited for
        std::optional<round::Reason> reason;
        Timestamp reason_since{};
        std::map<ClientId, LivePart> live;
        std::optional<Timestamp> wake;
        Timestamp last_opened{};  // its latest round
    };
    struct ParsedTask {
        JobId job;
        RoundId round;
    };

    Engine(net::asio::any_io_executor strand, const EngineOptions& options, const Clock& clock,
           observe::Metrics& metrics, std::function<void(const Error&)> on_fatal,
           store::StateDirectory directory, store::Ledger ledger, store::Versions versions,
           ingest::Spool spool);

    Result<void> activate(const store::JobRow& row);
    Result<std::unique_ptr<ActiveJob>> load(const store::JobRow& row) const;
    Result<std::set<Path>> counted_updates() const;  // of the open rounds and those kept for audits
    Result<std::vector<TaskId>> spent_tasks(const JobId& id, RoundId round) const;
    enum class Sweep { Recent, Everything };
    net::awaitable<Result<void>> expire(JobId id, Sweep sweep);
    Result<std::vector<Path>> spent_files(const JobId& id, const std::set<RoundId>& rounds) const;
    ActiveJob* find(const JobId& id) const;  // null once it is over

    // Events are taken one after another: what follows from one while it is handled waits for its end.
    void raise(const JobId& job, round::Event event);
    void raise(const ActiveJob& job, round::Event event) { raise(job.id, std::move(event)); }
    void hand_over(const JobId& id, const round::Event& event);
    void handle(const JobId& id, const round::Event& event);
    void apply(ActiveJob& job, const round::Effect& effect);
    void free_client(const ActiveJob& job, const ClientId& client);
    void open_round(ActiveJob& job, const round::OpenRound& effect);
    void ask(ActiveJob& job, const round::AskClient& effect);
    Result<void> add_steps(const ActiveJob& job, protocol::Task& task) const;
    void release(const ActiveJob& job, const round::Release& effect);
    void record(const ActiveJob& job, const round::RecordPart& effect);
    void record(ActiveJob& job, const round::RecordEvaluation& effect);
    void finish(const ActiveJob& job, const round::FinishJob& effect);
    void fail(const ActiveJob& job, const round::FailJob& effect);
    net::awaitable<Result<void>> close_round(JobId id, round::CloseRound effect);
    net::awaitable<Result<void>> tick();
    std::optional<Timestamp> next_wake() const;
    void log_waiting(ActiveJob& job);
    static Timestamp waits_since(const ActiveJob& job);
    Result<protocol::Because> why_job(const store::JobRow& row) const;
    Result<protocol::Because> why_round(const store::JobRow& row, RoundId round) const;
    Result<protocol::Because> why_client(const ClientId& client) const;
    protocol::Because at_work(const ActiveJob& job, const registry::Member& member) const;
    protocol::Because idle(const registry::Member& member) const;
    Result<protocol::Because> away(const ClientId& client) const;
    bool hold(const Result<void>& done);  // false, and fatal, when the ledger failed

    Result<ParsedTask> parse_task(const ClientId& client, const std::string& task) const;
    static ingest::UpdateRules update_rules(const job::JobSpec& spec);
    void accept(const Intake& intake, Link& reply);
    std::optional<protocol::Verdict> judge_before_upload(const ClientId& client, const ParsedTask& parsed,
                                                         const protocol::Offer& offer);
    void refuse(const UploadTarget& target, const Error& error, Link& reply);
    void put_off(const UploadTarget& target, const Error& error, Link& reply);
    void fill_summary(const store::JobRow& row, protocol::JobSummary& summary) const;
    void fill_round(const store::RoundRow& row, const ActiveJob* active, protocol::RoundReport& out) const;

    net::asio::any_io_executor strand_;
    EngineOptions options_;
    const Clock& clock_;
    observe::Metrics& metrics_;
    std::function<void(const Error&)> on_fatal_;
    store::StateDirectory directory_;
    store::Ledger ledger_;
    store::Versions versions_;
    ingest::Spool spool_;
    std::optional<net::asio::thread_pool> pool_;  // unless options_.compute takes its place
    net::asio::any_io_executor compute_;
    net::TaskGroup tasks_;
    net::Timer timer_;
    registry::Registry registry_;
    std::map<ClientId, Link*> links_;
    std::map<std::string, std::weak_ptr<const MappedFile>> version_cache_;
    std::vector<std::unique_ptr<ActiveJob>> jobs_;  // that are not over, in order of submission
    round::Schedule schedule_;                      // of connected clients: whose task they do
    std::deque<std::pair<JobId, round::Event>> events_;
    bool handling_ = false;
    Timestamp started_{};  // this process
};

}  // namespace fedllm::server::engine
