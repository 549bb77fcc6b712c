#include <utility>

#include "server/store/ledger.hpp"
#include "server/store/ledger_columns.hpp"

namespace fedllm::server::store {
namespace {

#define FEDLLM_PART_COLUMNS                                                                            \
    "client, task_id, state, weight, samples, tokens, update_digest, bytes, bytes_down, train_loss, "  \
    "train_seconds, "                                                                                  \
    "eval_loss_sum, eval_tokens, codec, elements, quantisation_error, residual_norm, reason, detail, " \
    "accepted_ms, elapsed_ms, counted, round"

Result<PartRow> read_part(const Database& database, const JobId& job, const Statement& row) {
    PartRow part;
    part.job = job;
    part.client = ClientId(row.text(0));
    part.task = TaskId(row.text(1));
    FEDLLM_TRY(part.status, parse_status<PartStatus>(database, row.text(2)));
    part.weight = row.count(3);
    part.samples = row.count(4);
    part.tokens = row.count(5);
    part.update_digest = row.text(6);
    part.bytes = row.count(7);
    part.bytes_down = row.count(8);
    part.train_loss = row.real(9);
    part.train_seconds = row.real(10);
    part.eval_loss_sum = row.real(11);
    part.eval_tokens = row.count(12);
    part.codec = row.text(13);
    part.elements = row.count(14);
    part.quantisation_error = row.real(15);
    part.residual_norm = row.real(16);
    part.reason = row.text(17);
    part.detail = row.text(18);
    if (!row.is_null(19)) part.accepted = time_of(row.integer(19));
    part.elapsed = Duration(row.integer(20));
    if (!row.is_null(21)) part.counted = RoundId(static_cast<std::uint32_t>(row.integer(21)));
    part.round = RoundId(static_cast<std::uint32_t>(row.integer(22)));
    return part;
}

Result<std::vector<PartRow>> read_parts(const Database& database, const JobId& job, Statement& select) {
    std::vector<PartRow> parts;
    while (true) {
        FEDLLM_TRY(const bool more, select.step());
        if (!more) return parts;
        FEDLLM_TRY(PartRow part, read_part(database, job, select));
        parts.push_back(std::move(part));
    }
}

std::string describe(const PartRow& part) {
    return part.client.get() + "'s part in round " + std::to_string(part.round.get()) + " of job " +
           part.job.get();
}

}  // namespace

Result<std::vector<PartRow>> read_contributions(Database& database, const JobId& job, RoundId round) {
    FEDLLM_TRY(Statement select,
               database.prepare("SELECT " FEDLLM_PART_COLUMNS
                                " FROM parts WHERE job_id = ? AND counted = ? AND state = 'accepted' "
                                "ORDER BY client, round"));
    return read_parts(database, job, select.bind(job.get()).bind(round.get()));
}

Result<void> Ledger::put_part(const PartRow& part) {
    FEDLLM_TRY(Statement put,
               database_->prepare("INSERT OR REPLACE INTO parts(job_id, " FEDLLM_PART_COLUMNS
                                  ") VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"));
    put.bind(part.job.get())
        .bind(part.client.get())
        .bind(task_id(part.job, part.round, part.client).get())
        .bind(name(part.status))
        .bind(part.weight)
        .bind(part.samples)
        .bind(part.tokens)
        .bind(part.update_digest)
        .bind(part.bytes)
        .bind(part.bytes_down)
        .bind(part.train_loss)
        .bind(part.train_seconds)
        .bind(part.eval_loss_sum)
        .bind(part.eval_tokens)
        .bind(part.codec)
        .bind(part.elements)
        .bind(part.quantisation_error)
        .bind(part.residual_norm)
        .bind(part.reason)
        .bind(part.detail);
    if (part.accepted) {
        put.bind(milliseconds(*part.accepted));
    } else {
        put.bind_null();
    }
    put.bind(std::int64_t{part.elapsed.count()});
    if (part.status == PartStatus::Accepted) {
        put.bind(part.counted.get());
    } else {
        put.bind_null();
    }
    return put.bind(part.round.get()).run();
}

Result<Acceptance> Ledger::accept(const PartRow& part) {
    FEDLLM_TRY(Transaction transaction, Transaction::begin(*database_));
    FEDLLM_TRY(const auto known, this->part(part.job, part.round, part.client));
    if (known && known->status == PartStatus::Accepted) {
        if (known->update_digest == part.update_digest) return Acceptance::AlreadyCounted;
        return make_error(Errc::Duplicate,
                          describe(part) + " was counted already, with the update " + known->update_digest);
    }
    FEDLLM_TRY(const RoundStatus status, round_status(part.job, part.counted));
    if (status != RoundStatus::Open) return make_error(Errc::Stale, describe(part) + ": the round is closed");
    if (!known) return make_error(Errc::NotFound, describe(part) + ": it was not asked");
    if (known->status != PartStatus::Asked) {
        return make_error(Errc::Stale,
                          describe(part) + " is over: it was " + std::string(name(known->status)));
    }
    PartRow counted = part;
    counted.status = PartStatus::Accepted;
    FEDLLM_TRY_VOID(put_part(counted));
    FEDLLM_TRY_VOID(transaction.commit());
    return Acceptance::Counted;
}

Result<void> Ledger::record_part(const PartRow& part) {
    FEDLLM_TRY(Transaction transaction, Transaction::begin(*database_));
    FEDLLM_TRY(const auto known, this->part(part.job, part.round, part.client));
    if (known && known->status == PartStatus::Accepted) {
        return make_error(Errc::Duplicate, describe(part) + " was counted already");
    }
    FEDLLM_TRY_VOID(put_part(part));
    return transaction.commit();
}

Result<void> Ledger::record_evaluation(const PartRow& part) {
    PartRow evaluated = part;
    evaluated.status = PartStatus::Evaluated;
    return record_part(evaluated);
}

Result<std::vector<PartRow>> Ledger::parts(const JobId& job, RoundId round) const {
    FEDLLM_TRY(Statement select,
               database_->prepare("SELECT " FEDLLM_PART_COLUMNS
                                  " FROM parts WHERE job_id = ? AND round = ? ORDER BY client"));
    return read_parts(*database_, job, select.bind(job.get()).bind(round.get()));
}

Result<std::vector<PartRow>> Ledger::parts(const JobId& job, RoundId round, const ClientId& after,
                                           std::size_t most) const {
    FEDLLM_TRY(Statement select,
               database_->prepare("SELECT " FEDLLM_PART_COLUMNS " FROM parts WHERE job_id = ? AND round = ? "
                                  "AND client > ? ORDER BY client LIMIT ?"));
    select.bind(job.get()).bind(round.get()).bind(after.get()).bind(std::uint64_t{most});
    return read_parts(*database_, job, select);
}

Result<std::vector<PartRow>> Ledger::contributions(const JobId& job, RoundId round) const {
    return read_contributions(*database_, job, round);
}

Result<std::optional<PartRow>> Ledger::part(const JobId& job, RoundId round, const ClientId& client) const {
    FEDLLM_TRY(Statement select,
               database_->prepare("SELECT " FEDLLM_PART_COLUMNS
                                  " FROM parts WHERE job_id = ? AND round = ? AND client = ?"));
    FEDLLM_TRY(const bool found, select.bind(job.get()).bind(round.get()).bind(client.get()).step());
    if (!found) return std::optional<PartRow>();
    FEDLLM_TRY(PartRow part, read_part(*database_, job, select));
    return std::optional<PartRow>(std::move(part));
}

// -------------------------------------------------------------------------------------------------- versions

#define FEDLLM_VERSION_COLUMNS                                                               \
    "digest, job_id, round, bytes, created_ms, base_digest, encoded_digest, encoded_bytes, " \
    "residual_digest, "                                                                      \
    "removed_ms"

namespace {

VersionRow read_version(const Statement& row) {
    return {row.text(0),
            JobId(row.text(1)),
            RoundId(static_cast<std::uint32_t>(row.integer(2))),
            row.count(3),
            time_of(row.integer(4)),
            row.text(5),
            row.text(6),
            row.count(7),
            row.text(8),
            row.is_null(9) ? std::nullopt : std::optional(time_of(row.integer(9)))};
}

Result<std::vector<VersionRow>> read_versions(Statement& select) {
    std::vector<VersionRow> versions;
    while (true) {
        FEDLLM_TRY(const bool more, select.step());
        if (!more) return versions;
        versions.push_back(read_version(select));
    }
}

}  // namespace

Result<VersionRow> Ledger::version(std::string_view digest) const {
    FEDLLM_TRY(Statement select,
               database_->prepare("SELECT " FEDLLM_VERSION_COLUMNS " FROM versions WHERE digest = ? "
                                  "ORDER BY removed_ms IS NOT NULL, created_ms LIMIT 1"));
    FEDLLM_TRY(const bool found, select.bind(digest).step());
    if (!found) return make_error(Errc::NotFound, "there is no model version '" + std::string(digest) + "'");
    return read_version(select);
}

Result<VersionRow> Ledger::version(const JobId& job, RoundId round) const {
    FEDLLM_TRY(Statement select, database_->prepare("SELECT " FEDLLM_VERSION_COLUMNS
                                                    " FROM versions WHERE job_id = ? AND round = ?"));
    FEDLLM_TRY(const bool found, select.bind(job.get()).bind(round.get()).step());
    if (found) return read_version(select);
    return make_error(Errc::NotFound,
                      "job " + job.get() + " has no model version for round " + std::to_string(round.get()));
}

Result<VersionRow> Ledger::step(std::string_view encoded_digest) const {
    FEDLLM_TRY(Statement select,
               database_->prepare("SELECT " FEDLLM_VERSION_COLUMNS
                                  " FROM versions WHERE encoded_digest = ? AND encoded_bytes > 0 LIMIT 1"));
    FEDLLM_TRY(const bool found, select.bind(encoded_digest).step());
    if (!found) return make_error(Errc::NotFound, "there is no step '" + std::string(encoded_digest) + "'");
    return read_version(select);
}

Result<std::vector<VersionRow>> Ledger::versions(const JobId& job) const {
    FEDLLM_TRY(Statement select, database_->prepare("SELECT " FEDLLM_VERSION_COLUMNS
                                                    " FROM versions WHERE job_id = ? ORDER BY round"));
    return read_versions(select.bind(job.get()));
}

Result<std::vector<VersionRow>> Ledger::versions_up_to(const JobId& job, RoundId round,
                                                       std::size_t count) const {
    FEDLLM_TRY(
        Statement select,
        database_->prepare("SELECT " FEDLLM_VERSION_COLUMNS
                           " FROM versions WHERE job_id = ? AND round <= ? ORDER BY round DESC LIMIT ?"));
    return read_versions(select.bind(job.get()).bind(round.get()).bind(std::uint64_t{count}));
}

Result<std::optional<Timestamp>> Ledger::last_answer(const ClientId& client) const {
    FEDLLM_TRY(Statement select, database_->prepare("SELECT MAX(accepted_ms) FROM parts WHERE client = ?"));
    FEDLLM_TRY_VOID(select.bind(client.get()).run());
    if (select.is_null(0)) return std::optional<Timestamp>();
    return std::optional(time_of(select.integer(0)));
}

Result<void> Ledger::remove_versions(const JobId& job, std::span<const RoundId> rounds, Timestamp now) {
    FEDLLM_TRY(Transaction transaction, Transaction::begin(*database_));
    for (const RoundId round : rounds) {
        FEDLLM_TRY(Statement update,
                   database_->prepare("UPDATE versions SET removed_ms = ? WHERE job_id = ? AND round = ?"));
        FEDLLM_TRY_VOID(update.bind(milliseconds(now)).bind(job.get()).bind(round.get()).run());
    }
    return transaction.commit();
}

Result<Ledger::Needed> Ledger::needed(const VersionRow& version, std::uint32_t rounds) const {
    Needed needed;
    {
        FEDLLM_TRY(Statement select, database_->prepare("SELECT 1 FROM versions WHERE digest = ? AND "
                                                        "removed_ms IS NULL LIMIT 1"));
        FEDLLM_TRY(needed.version, select.bind(version.digest).step());
    }
    if (!version.encoded_digest.empty()) {
        FEDLLM_TRY(Statement select, database_->prepare("SELECT 1 FROM versions WHERE encoded_digest = ? AND "
                                                        "removed_ms IS NULL LIMIT 1"));
        FEDLLM_TRY(needed.step, select.bind(version.encoded_digest).step());
    }
    if (!version.residual_digest.empty()) {
        FEDLLM_TRY(Statement select,
                   database_->prepare("SELECT 1 FROM versions JOIN jobs USING (job_id) WHERE "
                                      "residual_digest = ? AND versions.round + ? >= jobs.round LIMIT 1"));
        FEDLLM_TRY(needed.residual, select.bind(version.residual_digest).bind(rounds).step());
    }
    return needed;
}

Result<std::optional<RoundId>> Ledger::oldest_asked(const JobId& job) const {
    FEDLLM_TRY(Statement select,
               database_->prepare("SELECT MIN(round) FROM parts WHERE job_id = ? AND state = 'asked'"));
    FEDLLM_TRY_VOID(select.bind(job.get()).run());
    if (select.is_null(0)) return std::optional<RoundId>();
    return std::optional(RoundId(static_cast<std::uint32_t>(select.integer(0))));
}

}  // namespace fedllm::server::store
