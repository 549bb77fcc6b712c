#include "server/store/sqlite.hpp"

#include <sqlite3.h>

#include <cmath>
#include <limits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/base/rewrite.hpp"

namespace fedllm::server::store {

namespace {

// SQLite would build on what a failed sync left in the journal, and a power cut would take all that was
// committed since.
Result<void> settle_journal(const Path& journal) {
    FEDLLM_TRY(const auto found, disk().find(journal));
    if (!found || found->bytes == 0) return {};
    FEDLLM_TRY_VOID(write_again(journal));
    FEDLLM_TRY(const auto file, disk().open(journal, Disk::Open::Read));
    return file->sync();
}

}  // namespace

// ------------------------------------------------------------------------------------------------- Statement

Statement::Statement(Statement&& other) noexcept
    : database_(other.database_),
      statement_(std::exchange(other.statement_, nullptr)),
      bound_(other.bound_),
      bind_failed_(other.bind_failed_) {}

Statement::~Statement() {
    if (!statement_) return;
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
}

Statement& Statement::bind(std::string_view text) {
    // An empty view may have no address, which SQLite would read as NULL.
    const char* const data = text.empty() ? "" : text.data();
    bind_failed_ |= sqlite3_bind_text64(statement_, ++bound_, data, text.size(), SQLITE_TRANSIENT,
                                        SQLITE_UTF8) != SQLITE_OK;
    return *this;
}
Statement& Statement::bind(std::int64_t number) {
    bind_failed_ |= sqlite3_bind_int64(statement_, ++bound_, number) != SQLITE_OK;
    return *this;
}
Statement& Statement::bind(double number) {
    bind_failed_ |= sqlite3_bind_double(statement_, ++bound_, number) != SQLITE_OK;
    return *this;
}
Statement& Statement::bind_null() {
    bind_failed_ |= sqlite3_bind_null(statement_, ++bound_) != SQLITE_OK;
    return *this;
}

Result<bool> Statement::step() {
    if (bind_failed_) return database_->error("binding a value");
    switch (sqlite3_step(statement_)) {
        case SQLITE_ROW: return true;
        case SQLITE_DONE: return false;
        default: return database_->error(sqlite3_sql(statement_));
    }
}

Result<void> Statement::run() {
    FEDLLM_TRY([[maybe_unused]] const bool row, step());
    return {};
}

std::string Statement::text(int column) const {
    const auto* data = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    return data ? std::string(data, static_cast<std::size_t>(sqlite3_column_bytes(statement_, column))) : "";
}
std::int64_t Statement::integer(int column) const { return sqlite3_column_int64(statement_, column); }
double Statement::real(int column) const {
    return is_null(column) ? std::numeric_limits<double>::quiet_NaN()
                           : sqlite3_column_double(statement_, column);
}
bool Statement::is_null(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }

// -------------------------------------------------------------------------------------------------- Database

struct Database::Cache {
    struct Finalize {
        void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
    };
    std::unordered_map<std::string, std::unique_ptr<sqlite3_stmt, Finalize>> statements;
};

Database::Database(Path path) : path_(std::move(path)), cache_(std::make_unique<Cache>()) {}

Database::~Database() {
    cache_.reset();
    sqlite3_close(handle_);
}

Result<std::unique_ptr<Database>> Database::open(const Path& path) {
    FEDLLM_TRY_VOID(settle_journal(path.string() + "-wal"));
    std::unique_ptr<Database> database(new Database(path));
    if (sqlite3_open_v2(path.c_str(), &database->handle_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
                        disk().database_driver()) != SQLITE_OK) {
        return database->error("opening the ledger");
    }
    // A simulated disk has no memory that processes share, which WAL needs unless the one that opened the
    // file keeps it to itself. On the system's files others may read along (fedllm audit, the sqlite3 shell).
    if (disk().database_driver()) FEDLLM_TRY_VOID(database->execute("PRAGMA locking_mode=EXCLUSIVE"));
    for (const char* pragma :
         {"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON",
          "PRAGMA busy_timeout=5000", "PRAGMA trusted_schema=OFF", "PRAGMA cell_size_check=ON"}) {
        FEDLLM_TRY_VOID(database->execute(pragma));
    }
    return database;
}

Result<std::unique_ptr<Database>> Database::open_to_read(const Path& path) {
    std::unique_ptr<Database> database(new Database(path));
    if (sqlite3_open_v2(path.c_str(), &database->handle_, SQLITE_OPEN_READONLY, nullptr) != SQLITE_OK) {
        return database->error("opening the ledger to read it");
    }
    for (const char* pragma : {"PRAGMA query_only=ON", "PRAGMA busy_timeout=5000",
                               "PRAGMA trusted_schema=OFF", "PRAGMA cell_size_check=ON"}) {
        FEDLLM_TRY_VOID(database->execute(pragma));
    }
    return database;
}

Result<Statement> Database::prepare(std::string_view sql) {
    auto& statement = cache_->statements[std::string(sql)];
    if (!statement) {
        sqlite3_stmt* prepared = nullptr;
        if (sqlite3_prepare_v3(handle_, sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT,
                               &prepared, nullptr) != SQLITE_OK) {
            return error(sql);
        }
        statement.reset(prepared);
    }
    return Statement(*this, statement.get());
}

Result<void> Database::execute(const std::string& sql) {
    if (sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) return error(sql);
    return {};
}

std::uint64_t Database::changed_rows() const {
    return static_cast<std::uint64_t>(sqlite3_changes64(handle_));
}

Error Database::error(std::string_view doing) const {
    return make_error(Errc::StoreFailed, path_.string() + ": " + std::string(doing) + ": " +
                                             (handle_ ? sqlite3_errmsg(handle_) : "out of memory"));
}

// ----------------------------------------------------------------------------------------------- Transaction

Result<Transaction> Transaction::begin(Database& database) {
    FEDLLM_TRY_VOID(database.execute(database.transactions_ == 0 ? "BEGIN IMMEDIATE" : "SAVEPOINT part"));
    return Transaction(database);
}

Result<Transaction> Transaction::begin_reading(Database& database) {
    FEDLLM_TRY_VOID(database.execute("BEGIN"));
    return Transaction(database);
}

Transaction::~Transaction() {
    // A rollback that fails leaves nothing to do: the journal is rolled back when the file is opened next.
    if (!database_) return;
    const bool whole = --database_->transactions_ == 0;
    static_cast<void>(database_->execute(whole ? "ROLLBACK" : "ROLLBACK TO part; RELEASE part"));
}

Result<void> Transaction::commit() {
    FEDLLM_TRY_VOID(database_->execute(database_->transactions_ == 1 ? "COMMIT" : "RELEASE part"));
    --database_->transactions_;
    database_ = nullptr;
    return {};
}

}  // namespace fedllm::server::store
