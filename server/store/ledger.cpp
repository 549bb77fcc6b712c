#include "server/store/ledger.hpp"

#include <utility>

#include "server/store/chain.hpp"
#include "server/store/ledger_columns.hpp"
#include "server/store/schema.hpp"

namespace fedllm::server::store {
namespace {

Result<JobRow> read_job(const Database& database, const Statement& row) {
    JobRow job;
    job.id = JobId(row.text(0));
    job.name = row.text(1);
    job.yaml = row.text(2);
    FEDLLM_TRY(job.status, parse_status<JobStatus>(database, row.text(3)));
    job.created = time_of(row.integer(4));
    job.round = RoundId(static_cast<std::uint32_t>(row.integer(5)));
    job.model_digest = row.text(6);
    job.detail = row.text(7);
    job.chain = row.text(8);
    return job;
}

Result<RoundRow> read_round(const Database& database, const JobId& job, const Statement& row) {
    RoundRow round;
    round.job = job;
    round.round = RoundId(static_cast<std::uint32_t>(row.integer(0)));
    FEDLLM_TRY(round.status, parse_status<RoundStatus>(database, row.text(1)));
    round.model_digest = row.text(2);
    round.opened = time_of(row.integer(3));
    if (!row.is_null(4)) round.closed = time_of(row.integer(4));
    round.eval_loss = row.real(5);
    round.train_loss = row.real(6);
    round.next_digest = row.text(7);
    round.chain = row.text(8);
    return round;
}

Result<void> insert_version(Database& database, const VersionRow& version) {
    FEDLLM_TRY(Statement insert,
               database.prepare("INSERT INTO versions(job_id, round, digest, bytes, created_ms, base_digest, "
                                "encoded_digest, encoded_bytes, residual_digest) "
                                "VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)"));
    return insert.bind(version.job.get())
        .bind(version.round.get())
        .bind(version.digest)
        .bind(version.bytes)
        .bind(milliseconds(version.created))
        .bind(version.base_digest)
        .bind(version.encoded_digest)
        .bind(version.encoded_bytes)
        .bind(version.residual_digest)
        .run();
}

Result<void> drop_the_asked(Database& database, const JobId& job) {
    FEDLLM_TRY(Statement drop, database.prepare("UPDATE parts SET state = 'dropped' "
                                                "WHERE job_id = ? AND state = 'asked'"));
    return drop.bind(job.get()).run();
}

// Sets a round's last columns. Fails with OutOfOrder when there is no such round or it was committed before.
Result<void> end_round(Database& database, const JobId& job, RoundId round, const RoundResult& result,
                       std::string_view next_digest) {
    FEDLLM_TRY(Statement close,
               database.prepare("UPDATE rounds SET state = 'committed', closed_ms = ?, eval_loss = ?, "
                                "train_loss = ?, next_digest = ? "
                                "WHERE job_id = ? AND round = ? AND state <> 'committed'"));
    FEDLLM_TRY_VOID(close.bind(milliseconds(result.closed))
                        .bind(result.eval_loss)
                        .bind(result.train_loss)
                        .bind(next_digest)
                        .bind(job.get())
                        .bind(round.get())
                        .run());
    if (database.changed_rows() == 1) return {};
    return make_error(Errc::OutOfOrder, database.path().string() + ": job " + job.get() +
                                            " has no open round " + std::to_string(round.get()) +
                                            " to commit");
}

}  // namespace

TaskId task_id(const JobId& job, RoundId round, const ClientId& client) {
    return TaskId(job.get() + "/" + std::to_string(round.get()) + "/" + client.get());
}

Result<Ledger> Ledger::open(const Path& state_directory) {
    FEDLLM_TRY(auto database, Database::open(state_directory / "ledger.db"));
    FEDLLM_TRY_VOID(prepare_schema(*database));
    return Ledger(std::move(database));
}

Result<Ledger> Ledger::open_to_read(const Path& state_directory) {
    FEDLLM_TRY(auto database, Database::open_to_read(state_directory / "ledger.db"));
    FEDLLM_TRY_VOID(require_schema(*database));
    return Ledger(std::move(database));
}

// ------------------------------------------------------------------------------------------------------ jobs

Result<JobId> Ledger::add_job(const std::string& job_name, const std::string& yaml,
                              const std::string& initial_digest, std::uint64_t initial_bytes, Timestamp now) {
    FEDLLM_TRY(Transaction transaction, Transaction::begin(*database_));
    FEDLLM_TRY(Statement next, database_->prepare("SELECT COALESCE(MAX(number), 0) + 1 FROM jobs"));
    FEDLLM_TRY_VOID(next.run());
    const std::int64_t number = next.integer(0);
    const JobId id(std::string("j").append(std::to_string(number)));
    FEDLLM_TRY(
        Statement insert,
        database_->prepare("INSERT INTO jobs(number, job_id, name, yaml, state, created_ms, round, "
                           "model_digest, detail, chain) VALUES(?, ?, ?, ?, 'running', ?, 0, ?, '', ?)"));
    FEDLLM_TRY_VOID(insert.bind(number)
                        .bind(id.get())
                        .bind(job_name)
                        .bind(yaml)
                        .bind(milliseconds(now))
                        .bind(initial_digest)
                        .bind(chain_of_job(id, yaml, initial_digest))
                        .run());
    FEDLLM_TRY_VOID(insert_version(*database_, {initial_digest, id, RoundId(0), initial_bytes, now}));
    FEDLLM_TRY_VOID(transaction.commit());
    return id;
}

Result<std::vector<JobRow>> Ledger::jobs() const {
    FEDLLM_TRY(Statement select, database_->prepare("SELECT job_id, name, yaml, state, created_ms, round, "
                                                    "model_digest, detail, chain FROM jobs ORDER BY number"));
    std::vector<JobRow> jobs;
    while (true) {
        FEDLLM_TRY(const bool more, select.step());
        if (!more) return jobs;
        FEDLLM_TRY(JobRow job, read_job(*database_, select));
        jobs.push_back(std::move(job));
    }
}

Result<JobRow> Ledger::job(const JobId& id) const {
    FEDLLM_TRY(Statement select,
               database_->prepare("SELECT job_id, name, yaml, state, created_ms, round, "
                                  "model_digest, detail, chain FROM jobs WHERE job_id = ?"));
    FEDLLM_TRY(const bool found, select.bind(id.get()).step());
    if (!found) return make_error(Errc::NotFound, "there is no job '" + id.get() + "'");
    return read_job(*database_, select);
}

Result<void> Ledger::mark_job(const JobId& job, JobStatus status, const std::string& detail) {
    FEDLLM_TRY(Statement update,
               database_->prepare("UPDATE jobs SET state = ?, detail = ? WHERE job_id = ?"));
    return update.bind(name(status)).bind(detail).bind(job.get()).run();
}

Result<void> Ledger::finish_job(const JobId& job, JobStatus status, const std::string& detail,
                                const std::optional<RoundResult>& final_round) {
    FEDLLM_TRY(const JobRow row, this->job(job));
    FEDLLM_TRY(Transaction transaction, Transaction::begin(*database_));
    FEDLLM_TRY_VOID(drop_the_asked(*database_, job));
    if (final_round) FEDLLM_TRY_VOID(end_round(*database_, job, row.round, *final_round, ""));
    FEDLLM_TRY_VOID(mark_job(job, status, detail));
    return transaction.commit();
}

// ---------------------------------------------------------------------------------------------------- rounds

Result<void> Ledger::open_round(const RoundRow& round, std::span<const ClientId> asked) {
    FEDLLM_TRY(Transaction transaction, Transaction::begin(*database_));
    FEDLLM_TRY(
        Statement insert,
        database_->prepare("INSERT INTO rounds(job_id, round, state, model_digest, opened_ms, next_digest, "
                           "chain) VALUES(?, ?, 'open', ?, ?, '', '') ON CONFLICT DO NOTHING"));
    FEDLLM_TRY_VOID(insert.bind(round.job.get())
                        .bind(round.round.get())
                        .bind(round.model_digest)
                        .bind(milliseconds(round.opened))
                        .run());
    for (const ClientId& client : asked) {
        FEDLLM_TRY(const auto known, part(round.job, round.round, client));
        if (known) continue;
        PartRow row;
        row.job = round.job;
        row.round = round.round;
        row.client = client;
        FEDLLM_TRY_VOID(put_part(row));
    }
    return transaction.commit();
}

Result<void> Ledger::close_round(const JobId& job, RoundId round, std::span<const PartRow> dropped) {
    FEDLLM_TRY(Transaction transaction, Transaction::begin(*database_));
    for (const PartRow& part : dropped) {
        FEDLLM_TRY(Statement drop, database_->prepare("UPDATE parts SET state = 'dropped', reason = ? WHERE "
                                                      "job_id = ? AND round = ? AND client = ? "
                                                      "AND state = 'asked'"));
        drop.bind(part.reason).bind(job.get()).bind(part.round.get()).bind(part.client.get());
        FEDLLM_TRY_VOID(drop.run());
    }
    FEDLLM_TRY(Statement close, database_->prepare("UPDATE rounds SET state = 'closing' "
                                                   "WHERE job_id = ? AND round = ? AND state = 'open'"));
    FEDLLM_TRY_VOID(close.bind(job.get()).bind(round.get()).run());
    return transaction.commit();
}

Result<void> Ledger::commit_round(const JobId& job, RoundId round, const RoundResult& result,
                                  const VersionRow& next) {
    FEDLLM_TRY(Transaction transaction, Transaction::begin(*database_));
    FEDLLM_TRY_VOID(end_round(*database_, job, round, result, next.digest));
    FEDLLM_TRY_VOID(seal_round(*database_, job, round));
    FEDLLM_TRY_VOID(insert_version(*database_, next));
    FEDLLM_TRY(
        Statement advance,
        database_->prepare("UPDATE jobs SET round = ?, model_digest = ? WHERE job_id = ? AND round = ?"));
    FEDLLM_TRY_VOID(advance.bind(round.get() + 1).bind(next.digest).bind(job.get()).bind(round.get()).run());
    if (database_->changed_rows() != 1) {
        return make_error(Errc::OutOfOrder, database_->path().string() + ": job " + job.get() +
                                                " is not at round " + std::to_string(round.get()));
    }
    return transaction.commit();
}

Result<std::vector<RoundRow>> Ledger::rounds(const JobId& job) const {
    FEDLLM_TRY(
        Statement select,
        database_->prepare("SELECT round, state, model_digest, opened_ms, closed_ms, eval_loss, train_loss, "
                           "next_digest, chain FROM rounds WHERE job_id = ? ORDER BY round"));
    select.bind(job.get());
    std::vector<RoundRow> rounds;
    while (true) {
        FEDLLM_TRY(const bool more, select.step());
        if (!more) return rounds;
        FEDLLM_TRY(RoundRow round, read_round(*database_, job, select));
        rounds.push_back(std::move(round));
    }
}

Result<RoundStatus> Ledger::round_status(const JobId& job, RoundId round) const {
    FEDLLM_TRY(Statement select,
               database_->prepare("SELECT state FROM rounds WHERE job_id = ? AND round = ?"));
    FEDLLM_TRY(const bool found, select.bind(job.get()).bind(round.get()).step());
    if (!found) {
        return make_error(Errc::Stale,
                          "job " + job.get() + " has no open round " + std::to_string(round.get()));
    }
    return parse_status<RoundStatus>(*database_, select.text(0));
}

}  // namespace fedllm::server::store
