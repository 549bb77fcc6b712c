// The ledger: what the server has promised, in SQLite. A contribution is in it before it is acknowledged, a
// version before it is sent; so after any crash it says exactly where each job stands.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.hpp"
#include "server/store/rows.hpp"
#include "server/store/sqlite.hpp"

namespace fedllm::server::store {

enum class Acceptance { Counted, AlreadyCounted };

// How a round ends; see commit_round and finish_job.
struct RoundResult {
    Timestamp closed{};
    double eval_loss = kNoLoss;
    double train_loss = kNoLoss;
};

// Lifecycle: open once, after the StateDirectory. Concurrency: one strand; a commit takes about half a
// millisecond. Every failure of the database is StoreFailed; after one the process should stop and start
// again from the disk.
class Ledger {
public:
    static Result<Ledger> open(const Path& state_directory);  // <state>/ledger.db
    // For a reader beside the server, or after it: every writing call fails.
    static Result<Ledger> open_to_read(const Path& state_directory);
    // What is read while it lives is one moment's.
    Result<Transaction> moment() const { return Transaction::begin_reading(*database_); }
    // What is written while it lives comes to the disk at its commit(), all or nothing: one sync for all.
    Result<Transaction> together() { return Transaction::begin(*database_); }

    // Jobs. add_job gives the id ("j1", "j2", ...) and records the initial version with it.
    Result<JobId> add_job(const std::string& job_name, const std::string& yaml,
                          const std::string& initial_digest, std::uint64_t initial_bytes, Timestamp now);
    Result<std::vector<JobRow>> jobs() const;   // in order of submission
    Result<JobRow> job(const JobId& id) const;  // NotFound

    // Rounds. Opening twice is the same as once.
    Result<void> open_round(const RoundRow& round, std::span<const ClientId> asked);
    // Fixes the set of counted contributions: later ones are Stale. `dropped` are the parts that end with it,
    // and why; in an asynchronous job others stay asked, and count in a later round.
    Result<void> close_round(const JobId& job, RoundId round, std::span<const PartRow> dropped);
    // In one transaction: the round is committed and sealed in the chain, the version exists, the job has
    // advanced to the next round.
    Result<void> commit_round(const JobId& job, RoundId round, const RoundResult& result,
                              const VersionRow& next);
    // The job's newest version is not on the disk: it and the round that starts from it are forgotten, and
    // the round that made it is closing again, with the same contributions. False: it is the initial version.
    Result<bool> reopen_closed(const JobId& job);
    Result<std::vector<RoundRow>> rounds(const JobId& job) const;
    Result<std::string> chain(const JobId& job) const;  // its latest value; see chain.hpp

    // Paused, or running again; what is asked stays asked.
    Result<void> mark_job(const JobId& job, JobStatus status, const std::string& detail);
    // The job is over. `final_round` closes the final evaluation, where there was one.
    Result<void> finish_job(const JobId& job, JobStatus status, const std::string& detail,
                            const std::optional<RoundResult>& final_round = std::nullopt);

    // Parts. accept: Duplicate when this client's contribution to this round was counted with another digest,
    // Stale when the round is not open, NotFound when the client was never asked.
    Result<Acceptance> accept(const PartRow& part);
    // Asked, Refused, Declined: replaces what was known, but never an accepted contribution (Duplicate).
    Result<void> record_part(const PartRow& part);
    Result<void> record_evaluation(const PartRow& part);  // of the final evaluation: status Evaluated
    // Sorted by client; of those behind `after`, which may be nobody, the first `most`.
    Result<std::vector<PartRow>> parts(const JobId& job, RoundId round) const;
    Result<std::vector<PartRow>> parts(const JobId& job, RoundId round, const ClientId& after,
                                       std::size_t most) const;
    // The parts counted in a round's sum, sorted by client and then by the round they started from.
    Result<std::vector<PartRow>> contributions(const JobId& job, RoundId round) const;
    Result<std::optional<PartRow>> part(const JobId& job, RoundId round, const ClientId& client) const;
    Result<std::optional<Timestamp>> last_answer(
        const ClientId& client) const;  // its latest update, of any job

    Result<VersionRow> version(std::string_view digest) const;  // NotFound
    Result<VersionRow> version(const JobId& job,
                               RoundId round) const;                   // that the round starts from; NotFound
    Result<VersionRow> step(std::string_view encoded_digest) const;    // the version it leads to; NotFound
    Result<std::vector<VersionRow>> versions(const JobId& job) const;  // the initial one first
    // The version that `round` starts from and those before it, newest first.
    Result<std::vector<VersionRow>> versions_up_to(const JobId& job, RoundId round, std::size_t count) const;

    // Retention. The rows stay; their files are about to go.
    Result<void> remove_versions(const JobId& job, std::span<const RoundId> rounds, Timestamp now);
    // Whether any job still needs the files that `version` names. A residual is needed by the round that
    // starts from it, and by audits of the last `rounds` rounds. What has no name is not there to be removed:
    // it counts as needed.
    struct Needed {
        bool version = true;
        bool step = true;
        bool residual = true;
    };
    Result<Needed> needed(const VersionRow& version, std::uint32_t rounds) const;
    // The oldest version that somebody's task starts from; nothing when nobody is asked.
    Result<std::optional<RoundId>> oldest_asked(const JobId& job) const;

private:
    explicit Ledger(std::unique_ptr<Database> database) : database_(std::move(database)) {}

    Result<void> put_part(const PartRow& part);
    Result<RoundStatus> round_status(const JobId& job, RoundId round) const;

    std::unique_ptr<Database> database_;
};

TaskId task_id(const JobId& job, RoundId round, const ClientId& client);  // "j1/0/site-a"

}  // namespace fedllm::server::store
