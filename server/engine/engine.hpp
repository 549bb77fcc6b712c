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
#include "server/engine/commit.hpp"
#include "server/engine/intake.hpp"
#include "server/engine/link.hpp"
#include "server/engine/retention.hpp"
#include "server/ingest/upload_memory.hpp"
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
    std::uint64_t upload_memory = std::uint64_t{256} << 20;  // of all uploads together
    // Bytes for the sums of all jobs, asked whenever one is to be taken up. None, or 0: nobody knows a limit.
    std::function<std::uint64_t()> sum_memory{};
    unsigned threads = 0;  // of the compute pool; 0: one per core
    RetentionRules retention{};
    // Where the pool's work runs instead, for simulated worlds.
    std::optional<net::asio::any_io_executor> compute{};
};

class Engine;

// An upload in the hands of a connection. Let go of in any way, by a cut too, the engine takes it back.
struct TakeBack {
    std::weak_ptr<Engine*> engine;  // connections of a world that crashes may go after it
    void operator()(Intake* intake) const;
};
using UploadUnderWay = std::unique_ptr<Intake, TakeBack>;

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
    void begin_download(const std::string& digest);  // its first bytes go to a client now
    void count_download(const ClientId& client, std::uint64_t bytes);

    // What ends in a Verdict posts it to `reply` before anything that follows from it, such as the next Task.
    net::awaitable<void> on_evaluation(ClientId client, protocol::Evaluation evaluation, Link& reply);
    // Take the update's bytes from held() on; nothing when the Verdict was given at once.
    net::awaitable<UploadUnderWay> on_offer(ClientId client, protocol::Offer offer, Link& reply);
    net::awaitable<Result<void>> take(Intake& intake, std::uint64_t offset, std::span<const std::byte> bytes);
    // Of one upload, how many chunks may be in memory: several, so that one is taken while another arrives,
    // or, among many uploads, which keep the cores busy anyway, one.
    std::size_t chunks_in_hand() const;
    net::awaitable<void> finish_upload(UploadUnderWay intake, Link& reply);
    net::awaitable<void> refuse_upload(UploadUnderWay intake, Error error, Link& reply);

    // A version's bytes, or a step's.
    net::awaitable<Result<SharedVersion>> version(std::string digest);

    // Operators. `initial` holds the safetensors file of the first version.
    Result<ingest::Upload> begin_submission(const std::string& operator_name,
                                            const protocol::SubmitJob& request);
    net::awaitable<Result<JobId>> submit(protocol::SubmitJob request, ingest::Upload initial);
    Result<protocol::JobList> list_jobs() const;
    Result<protocol::JobReport> report(const protocol::ShowJob& request) const;  // one page
    // Pause, resume, stop. Asking twice is as once; Stale for a job that is over.
    net::awaitable<Result<protocol::JobSummary>> control(std::string operator_name,
                                                         protocol::ControlJob request);
    Result<protocol::AuditRows> audit_rows(const protocol::AuditJob& request) const;  // one page
    // Of a job ("j1"), one of its rounds ("j1/3"), or a client. NotFound.
    Result<protocol::Because> why(const std::string& subject) const;

    // For simulated worlds, which check what is there against what they saw.
    const store::Ledger& ledger() const { return ledger_; }
    const store::Versions& versions() const { return versions_; }
    const ingest::UploadMemory& upload_memory() const { return *upload_memory_; }
    std::size_t uploads_under_way() const { return uploads_.size(); }

private:
    friend struct TakeBack;
    struct LivePart {  // what a client said about its work since it was asked
        std::uint32_t step = 0;
        std::uint32_t steps = 0;
        double loss = 0;
        std::uint64_t bytes_up = 0;
        std::uint64_t bytes_down = 0;
        bool uploading = false;
        Timestamp heard{};  // when its job was last told that it is alive
    };
    struct ActiveJob {
        JobId id;
        job::JobSpec spec;
        std::string yaml;
        SharedShape shape;
        round::JobState state;
        SharedSum sum;        // of the open round; null between rounds
        SharedSum spare_sum;  // of the round before, cleared
        RoundBase base;       // the newest version: what the open round starts from
        bool durable = true;  // it is on the disk: before that nothing that starts from it is accepted
        // The last byte of what the open round counts, by the monotonic clock; then of the round that made
        // the newest version, until the first byte of that one goes out. 0: nobody knows, or it is told
        // already.
        double last_byte = 0;
        double unsent_since = 0;
        bool exporting = false;  // its adapter is being written
        RoundId exported{0};     // the version of which it was written last
        std::string last_wait;   // what was last logged as waited for
        std::string reason;      // the same in a word
        std::map<ClientId, LivePart> live;
        std::optional<Timestamp> wake;
        Timestamp last_opened{};  // its latest round
    };
    struct ParsedTask {
        JobId job;
        RoundId round;
    };
    // An upload as the control strand sees it; its calls run on the pool, one after another, on its line.
    struct Upload {
        net::asio::any_io_executor line;
        Entry entry;  // where it is once the calls made so far have run
        ingest::UploadMemory::Share memory;
        double last_byte = 0;  // when it came, by the monotonic clock
    };

    // An update that is on the disk and in the sum, to be counted. Who shares: its upload's coroutine, which
    // may go while it waits, and the queue.
    struct Settled {
        enum class Answer { None, Given, NotNow };
        Settled(Intake& of, Link& to, const net::asio::any_io_executor& strand)
            : intake(&of), reply(&to), bell(strand) {}
        Intake* intake;  // null: it is gone
        Link* reply;
        net::Timer bell;  // never fires: cancelled with the answer
        Answer answer = Answer::None;
    };

    Engine(net::asio::any_io_executor strand, const EngineOptions& options, const Clock& clock,
           observe::Metrics& metrics, std::function<void(const Error&)> on_fatal,
           store::StateDirectory directory, store::Ledger ledger, store::Versions versions,
           ingest::Spool spool);

    // `newest`: what the job goes on from, where its bytes were looked at already.
    Result<void> activate(const store::JobRow& row, std::optional<RoundBase> newest = {});
    Result<std::unique_ptr<ActiveJob>> load(const store::JobRow& row, std::optional<RoundBase> newest) const;
    Result<std::set<Path>> counted_updates() const;  // of the open rounds and those kept for audits
    Result<std::set<Path>> named_versions() const;   // with their steps and residuals
    Result<std::vector<TaskId>> spent_tasks(const JobId& id, RoundId round) const;
    enum class Sweep { Recent, Everything };
    net::awaitable<Result<void>> expire(JobId id, Sweep sweep);
    Result<std::vector<Path>> spent_files(const JobId& id, const std::set<RoundId>& rounds) const;
    ActiveJob* find(const JobId& id) const;  // null once it is over, and while it is laid aside
    // Memory (room.cpp). TooLarge.
    Result<void> check_room(const job::JobSpec& spec, std::uint64_t elements) const;
    Error not_under_way(const JobId& id) const;
    bool is_aside(const store::JobRow& row) const;
    Result<void> lay_aside(const store::JobRow& row, const Error& why);
    Result<void> control_aside(const store::JobRow& row, const round::Event& event);

    // Events are taken one after another: what follows from one while it is handled waits for its end.
    void raise(const JobId& job, round::Event event);
    void raise(const ActiveJob& job, round::Event event) { raise(job.id, std::move(event)); }
    void hand_over(const JobId& id, const round::Event& event);
    void handle_all();
    void handle(const JobId& id, const round::Event& event);
    void apply(ActiveJob& job, const round::Effect& effect);
    void free_client(const ActiveJob& job, const ClientId& client);
    void open_round(ActiveJob& job, const round::OpenRound& effect);
    void ask(ActiveJob& job, const round::AskClient& effect);
    Result<void> add_steps(const ActiveJob& job, protocol::Task& task) const;
    Result<void> add_counted(const round::AskClient& effect, protocol::Task& task) const;
    void release(const ActiveJob& job, const round::Release& effect);
    void record(const ActiveJob& job, const round::RecordPart& effect);
    void record(ActiveJob& job, const round::RecordEvaluation& effect);
    void finish(const ActiveJob& job, const round::FinishJob& effect);
    void fail(const ActiveJob& job, const round::FailJob& effect);
    void say(Link& link, protocol::ServerMessage message);
    void once_committed(std::function<void()> tell);  // at once, unless things are written together
    // All that `work` writes to the ledger comes to the disk with one sync, and is said and logged after it;
    // false, and nothing is said, where the ledger fails. `work` does not suspend.
    template <class Work>
    bool together(Work work);
    // Closing (closing.cpp).
    void begin_closing(ActiveJob& job, const round::CloseRound& effect);
    Result<std::optional<RoundBase>> check_newest(const store::JobRow& row);
    Result<bool> keeps_updates_of(const store::VersionRow& version) const;
    static SharedSum make_sum(const SharedShape& shape, const job::JobSpec& spec);
    void begin_sum(ActiveJob& job);
    void add_spooled(const SharedSum& sum, const std::vector<Contribution>& missing);
    net::awaitable<Result<void>> add_spooled(SharedSum sum, Contribution one);
    net::awaitable<Result<void>> withdraw(SharedSum sum, Intake& intake, net::asio::any_io_executor line);
    net::awaitable<Result<SharedSum>> sum_of(ActiveJob& job, std::vector<Contribution> contributions);
    net::awaitable<Result<void>> close_round(JobId id, RoundId round);
    net::awaitable<Result<void>> make_version(JobId id, RoundId round);
    void commit(const JobId& id, RoundId round, const NewVersion& made,
                const std::vector<store::PartRow>& parts);
    net::awaitable<Result<void>> settle_version(JobId id, RoundId round, std::vector<Path> paths);
    net::awaitable<Result<void>> write_newest_adapter(JobId id);
    net::awaitable<Result<void>> deliver(JobId id);
    void give_up(const JobId& id, const Error& error);
    net::awaitable<Result<void>> newest_is_durable(JobId id);
    // Until `holds`, which is looked at whenever the bell is cancelled; false when the task is being stopped.
    template <class Condition>
    net::awaitable<bool> until(Condition holds, net::Timer& bell);
    template <class Condition>
    net::awaitable<bool> until(Condition holds) {
        return until(std::move(holds), changed_);
    }
    net::awaitable<Result<void>> tick();
    std::optional<Timestamp> next_wake() const;
    void log_waiting(ActiveJob& job);
    Result<protocol::Because> why_job(const store::JobRow& row) const;
    Result<protocol::Because> why_round(const store::JobRow& row, RoundId round) const;
    Result<protocol::Because> why_client(const ClientId& client) const;
    protocol::Because at_work(const ActiveJob& job, const registry::Member& member,
                              const round::Expected& expected) const;
    std::string unsuitable(const ActiveJob& job) const;
    std::string said_of(const ActiveJob& job, const ClientId& client) const;
    std::string idle_in(const ActiveJob& job, const registry::Member& member) const;
    protocol::Because idle(const registry::Member& member) const;
    Result<protocol::Because> away(const ClientId& client) const;
    bool hold(const Result<void>& done);  // false, and fatal, when the ledger failed

    Result<ParsedTask> parse_task(const ClientId& client, const std::string& task) const;
    static ingest::UpdateRules update_rules(const job::JobSpec& spec);
    void say(Link& reply, protocol::Verdict verdict);
    void count(Intake& intake, const store::PartRow& row, Link& reply);
    net::awaitable<bool> place(Intake& intake);
    bool is_placed(Intake& intake) const;
    net::awaitable<void> conclude(Intake& intake, Link& reply);
    void count_settled_soon();
    void count_settled();
    void accept(Intake& intake, Link& reply);
    void take_back(Intake* intake);
    net::awaitable<Result<void>> let_go(std::unique_ptr<Intake> intake);
    Entry entry_for(const ActiveJob& job, const UploadTarget& target, const ingest::Claim& claim) const;
    void count_upload_memory();
    Result<std::optional<protocol::Verdict>> judge_before_upload(const UploadTarget& target,
                                                                 const protocol::Offer& offer);
    bool may_upload(const UploadTarget& target, const protocol::Offer& offer, Link& reply);
    void refuse(const UploadTarget& target, const Error& error, Link& reply);
    void put_off(const UploadTarget& target, const Error& error, Link& reply);
    void fill_summary(const store::JobRow& row, protocol::JobSummary& summary) const;
    void fill_part(const store::PartRow& row, const ActiveJob* active, protocol::Part& out) const;

    net::asio::any_io_executor strand_;
    EngineOptions options_;
    const Clock& clock_;
    observe::Metrics& metrics_;
    std::function<void(const Error&)> on_fatal_;
    store::StateDirectory directory_;
    store::Ledger ledger_;
    store::Versions versions_;
    ingest::Spool spool_;
    std::optional<net::asio::thread_pool> pool_;       // unless options_.compute takes its place
    std::optional<net::asio::thread_pool> disk_pool_;  // the same, for what waits for the disk
    unsigned threads_;                                 // of the first
    net::asio::any_io_executor compute_;
    net::asio::any_io_executor disk_threads_;
    net::TaskGroup tasks_;
    net::Timer timer_;
    net::Timer changed_;  // never fires: cancelled when something that until() may wait for has changed
    registry::Registry registry_;
    std::map<ClientId, Link*> links_;
    std::map<std::string, std::weak_ptr<const MappedFile>> version_cache_;
    std::vector<std::unique_ptr<ActiveJob>> jobs_;  // that are not over, in order of submission
    round::Schedule schedule_;                      // of connected clients: whose task they do
    // Shared with who waits for a share, and with uploads in the hands of connections: see TakeBack.
    std::shared_ptr<ingest::UploadMemory> upload_memory_;
    std::shared_ptr<Engine*> self_;
    std::map<Intake*, Upload> uploads_;               // until their last call has run
    std::vector<std::shared_ptr<Settled>> settled_;   // in the order in which they are counted
    std::vector<std::unique_ptr<Intake>> left_over_;  // let go of while stopping
    std::deque<std::pair<JobId, round::Event>> events_;
    bool handling_ = false;
    // Null, or what waits for the commit of what it tells of; see together().
    std::vector<std::function<void()>>* untold_ = nullptr;
    bool failed_ = false;  // the ledger: what follows from an effect that it lacks must not reach it either
    Timestamp started_{};  // this process
};

template <class Work>
bool Engine::together(Work work) {
    FEDLLM_CHECK(untold_ == nullptr && !handling_);
    if (failed_) return false;
    auto transaction = ledger_.together();
    if (!transaction) return hold(transaction.error());
    std::vector<std::function<void()>> untold;
    untold_ = &untold;
    work();
    untold_ = nullptr;
    if (failed_ || !hold(transaction->commit())) return false;
    for (const auto& tell : untold) tell();
    return true;
}

template <class Condition>
net::awaitable<bool> Engine::until(Condition holds, net::Timer& bell) {
    while (!holds()) {
        if (tasks_.stopping()) co_return false;
        [[maybe_unused]] auto [woken] = co_await bell.async_wait(net::kNoThrow);
        const auto state = co_await net::asio::this_coro::cancellation_state;
        if (state.cancelled() != net::asio::cancellation_type::none) co_return false;
    }
    co_return true;
}

}  // namespace fedllm::server::engine
