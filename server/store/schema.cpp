#include "server/store/schema.hpp"

#include "server/store/ledger_columns.hpp"

namespace fedllm::server::store {
namespace {

constexpr std::int64_t kSchemaVersion = 3;

constexpr const char* kSchema = R"sql(
CREATE TABLE jobs(
  number INTEGER PRIMARY KEY, job_id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, yaml TEXT NOT NULL,
  state TEXT NOT NULL, created_ms INTEGER NOT NULL, round INTEGER NOT NULL, model_digest TEXT NOT NULL,
  detail TEXT NOT NULL, chain TEXT NOT NULL);
CREATE TABLE rounds(
  job_id TEXT NOT NULL REFERENCES jobs(job_id), round INTEGER NOT NULL, state TEXT NOT NULL,
  model_digest TEXT NOT NULL, opened_ms INTEGER NOT NULL, closed_ms INTEGER, eval_loss REAL, train_loss REAL,
  next_digest TEXT NOT NULL, chain TEXT NOT NULL, PRIMARY KEY(job_id, round)) WITHOUT ROWID;
CREATE TABLE parts(
  job_id TEXT NOT NULL, round INTEGER NOT NULL, client TEXT NOT NULL, task_id TEXT NOT NULL,
  state TEXT NOT NULL,
  weight INTEGER NOT NULL, samples INTEGER NOT NULL, tokens INTEGER NOT NULL, update_digest TEXT NOT NULL,
  bytes INTEGER NOT NULL, bytes_down INTEGER NOT NULL, train_loss REAL, train_seconds REAL,
  eval_loss_sum REAL, eval_tokens INTEGER NOT NULL,
  codec TEXT NOT NULL, elements INTEGER NOT NULL, quantisation_error REAL NOT NULL, residual_norm REAL NOT NULL,
  reason TEXT NOT NULL, detail TEXT NOT NULL, accepted_ms INTEGER, elapsed_ms INTEGER NOT NULL,
  counted INTEGER, PRIMARY KEY(job_id, round, client),
  FOREIGN KEY(job_id, round) REFERENCES rounds(job_id, round)) WITHOUT ROWID;
CREATE INDEX parts_by_counted ON parts(job_id, counted);
CREATE TABLE versions(
  job_id TEXT NOT NULL REFERENCES jobs(job_id), round INTEGER NOT NULL, digest TEXT NOT NULL,
  bytes INTEGER NOT NULL, created_ms INTEGER NOT NULL,
  base_digest TEXT NOT NULL, encoded_digest TEXT NOT NULL, encoded_bytes INTEGER NOT NULL,
  residual_digest TEXT NOT NULL, removed_ms INTEGER, PRIMARY KEY(job_id, round)) WITHOUT ROWID;
CREATE INDEX versions_by_digest ON versions(digest);
CREATE INDEX versions_by_step ON versions(encoded_digest);
PRAGMA user_version = 3;
)sql";

// Until version 2 every accepted update was counted in the round it was asked for.
constexpr const char* kFrom2To3 = R"sql(
ALTER TABLE jobs ADD COLUMN chain TEXT NOT NULL DEFAULT '';
ALTER TABLE rounds ADD COLUMN chain TEXT NOT NULL DEFAULT '';
ALTER TABLE parts ADD COLUMN counted INTEGER;
ALTER TABLE versions ADD COLUMN removed_ms INTEGER;
UPDATE parts SET counted = round WHERE state = 'accepted';
CREATE INDEX parts_by_counted ON parts(job_id, counted);
PRAGMA user_version = 3;
)sql";

Result<void> check_integrity(Database& database) {
    FEDLLM_TRY(Statement check, database.prepare("PRAGMA quick_check(1)"));
    FEDLLM_TRY(const bool row, check.step());
    if (row && check.text(0) == "ok") return {};
    return make_error(Errc::StoreFailed, database.path().string() + ": the ledger is damaged (" +
                                             (row ? check.text(0) : "no answer") +
                                             "); restore it from a backup");
}

Result<std::int64_t> version_of(Database& database) {
    FEDLLM_TRY(Statement read, database.prepare("PRAGMA user_version"));
    FEDLLM_TRY_VOID(read.run());
    return read.integer(0);
}

Error other_version(const Database& database, std::int64_t version, const std::string& what_to_do) {
    return make_error(Errc::Unsupported, database.path().string() + ": has schema version " +
                                             std::to_string(version) + ", this program writes " +
                                             std::to_string(kSchemaVersion) + ": " + what_to_do);
}

// The rounds before the chain existed are sealed as the ledger has them now.
Result<void> seal_the_past(Database& database) {
    FEDLLM_TRY(Statement read, database.prepare("SELECT job_id FROM jobs ORDER BY number"));
    std::vector<JobId> jobs;
    while (true) {
        FEDLLM_TRY(const bool more, read.step());
        if (!more) break;
        jobs.emplace_back(read.text(0));
    }
    for (const JobId& job : jobs) {
        FEDLLM_TRY_VOID(seal_job(database, job));
        FEDLLM_TRY(Statement committed,
                   database.prepare("SELECT round FROM rounds WHERE job_id = ? AND state = 'committed' "
                                    "AND next_digest <> '' ORDER BY round"));
        committed.bind(job.get());
        std::vector<RoundId> rounds;
        while (true) {
            FEDLLM_TRY(const bool more, committed.step());
            if (!more) break;
            rounds.emplace_back(static_cast<std::uint32_t>(committed.integer(0)));
        }
        for (const RoundId round : rounds) FEDLLM_TRY_VOID(seal_round(database, job, round));
    }
    return {};
}

}  // namespace

Result<void> prepare_schema(Database& database) {
    FEDLLM_TRY_VOID(check_integrity(database));
    FEDLLM_TRY(const std::int64_t version, version_of(database));
    if (version == kSchemaVersion) return {};
    if (version != 0 && version != 2) {
        return other_version(database, version,
                             version > kSchemaVersion
                                 ? "a newer fedllm-server wrote it; start that one, or restore a backup"
                                 : "it is older than any that this program can bring up to date");
    }
    FEDLLM_TRY(Transaction transaction, Transaction::begin(database));
    FEDLLM_TRY_VOID(database.execute(version == 0 ? kSchema : kFrom2To3));
    if (version == 2) FEDLLM_TRY_VOID(seal_the_past(database));
    return transaction.commit();
}

Result<void> require_schema(Database& database) {
    FEDLLM_TRY(const std::int64_t version, version_of(database));
    if (version == kSchemaVersion) return {};
    return other_version(database, version,
                         version > kSchemaVersion
                             ? "use the fedllm of the fedllm-server that wrote it"
                             : "start this version's fedllm-server on it once, which brings it up to date");
}

}  // namespace fedllm::server::store
