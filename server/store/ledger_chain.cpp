// The ledger's half about the chain: which rows go into it, and where it is kept.
#include "server/store/chain.hpp"
#include "server/store/ledger.hpp"
#include "server/store/ledger_columns.hpp"

namespace fedllm::server::store {
namespace {

// The chain's value that a round goes on from.
Result<std::string> chain_before(Database& database, const JobId& job, RoundId round) {
    if (round.get() == 0) {
        FEDLLM_TRY(Statement select, database.prepare("SELECT chain FROM jobs WHERE job_id = ?"));
        FEDLLM_TRY_VOID(select.bind(job.get()).run());
        return select.text(0);
    }
    FEDLLM_TRY(Statement select, database.prepare("SELECT chain FROM rounds WHERE job_id = ? AND round = ?"));
    FEDLLM_TRY_VOID(select.bind(job.get()).bind(round.get() - 1).run());
    return select.text(0);
}

}  // namespace

Result<void> seal_job(Database& database, const JobId& job) {
    FEDLLM_TRY(Statement select,
               database.prepare("SELECT yaml, digest FROM jobs, versions WHERE jobs.job_id = ? AND "
                                "versions.job_id = jobs.job_id AND versions.round = 0"));
    FEDLLM_TRY_VOID(select.bind(job.get()).run());
    FEDLLM_TRY(Statement update, database.prepare("UPDATE jobs SET chain = ? WHERE job_id = ?"));
    return update.bind(chain_of_job(job, select.text(0), select.text(1))).bind(job.get()).run();
}

Result<void> seal_round(Database& database, const JobId& job, RoundId round) {
    FEDLLM_TRY(Statement select, database.prepare("SELECT model_digest, next_digest FROM rounds "
                                                  "WHERE job_id = ? AND round = ?"));
    FEDLLM_TRY_VOID(select.bind(job.get()).bind(round.get()).run());
    RoundRow row;
    row.job = job;
    row.round = round;
    row.model_digest = select.text(0);
    row.next_digest = select.text(1);
    FEDLLM_TRY(const std::string before, chain_before(database, job, round));
    FEDLLM_TRY(const auto counted, read_contributions(database, job, round));
    FEDLLM_TRY(Statement update,
               database.prepare("UPDATE rounds SET chain = ? WHERE job_id = ? AND round = ?"));
    return update.bind(chain_of_round(before, row, counted)).bind(job.get()).bind(round.get()).run();
}

Result<std::string> Ledger::chain(const JobId& job) const {
    FEDLLM_TRY(const JobRow row, this->job(job));
    FEDLLM_TRY(Statement select,
               database_->prepare("SELECT chain FROM rounds WHERE job_id = ? AND chain <> '' "
                                  "ORDER BY round DESC LIMIT 1"));
    FEDLLM_TRY(const bool sealed, select.bind(job.get()).step());
    return sealed ? select.text(0) : row.chain;
}

}  // namespace fedllm::server::store
