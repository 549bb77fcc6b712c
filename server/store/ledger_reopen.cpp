// Going back by one round: where the newest version is not on the disk, the round that made it is closing
// again.
#include "server/store/ledger.hpp"

namespace fedllm::server::store {

Result<bool> Ledger::reopen_closed(const JobId& job) {
    FEDLLM_TRY(const JobRow row, this->job(job));
    if (row.round.get() == 0) return false;
    const RoundId last(row.round.get() - 1);
    FEDLLM_TRY(Transaction transaction, Transaction::begin(*database_));
    // Of the round after it nothing is counted: no verdict is given before the version it starts from is
    // durable.
    FEDLLM_TRY(const auto counted, contributions(job, row.round));
    if (!counted.empty()) {
        return make_error(Errc::StoreFailed, database_->path().string() + ": job " + job.get() + ", round " +
                                                 std::to_string(row.round.get()) +
                                                 " counts updates, but the version it starts from is gone; "
                                                 "restore the versions folder from a backup");
    }
    for (const char* sql : {"DELETE FROM parts WHERE job_id = ? AND round = ?",
                            "DELETE FROM rounds WHERE job_id = ? AND round = ?",
                            "DELETE FROM versions WHERE job_id = ? AND round = ?"}) {
        FEDLLM_TRY(Statement statement, database_->prepare(sql));
        FEDLLM_TRY_VOID(statement.bind(job.get()).bind(row.round.get()).run());
    }
    FEDLLM_TRY(Statement reopen,
               database_->prepare(
                   "UPDATE rounds SET state = 'closing', closed_ms = NULL, eval_loss = NULL, "
                   "train_loss = NULL, next_digest = '', chain = '' WHERE job_id = ? AND round = ? AND "
                   "state = 'committed'"));
    FEDLLM_TRY_VOID(reopen.bind(job.get()).bind(last.get()).run());
    if (database_->changed_rows() != 1) {
        return make_error(Errc::StoreFailed, database_->path().string() + ": job " + job.get() +
                                                 " has no committed round " + std::to_string(last.get()));
    }
    FEDLLM_TRY(
        Statement back,
        database_->prepare("UPDATE jobs SET round = ?, model_digest = (SELECT model_digest FROM rounds "
                           "WHERE job_id = ? AND round = ?) WHERE job_id = ?"));
    FEDLLM_TRY_VOID(back.bind(last.get()).bind(job.get()).bind(last.get()).bind(job.get()).run());
    FEDLLM_TRY_VOID(transaction.commit());
    return true;
}

}  // namespace fedllm::server::store
