// SQLite with owners and Results. Every error names the database file and what was being done.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/files.hpp"
#include "common/base/result.hpp"

struct sqlite3;
struct sqlite3_stmt;

namespace fedllm::server::store {

class Database;

// A prepared statement in use: bind in order, then step. Resets itself when it goes, so that the next user of
// the same text finds it clean.
class Statement {
public:
    Statement(Statement&& other) noexcept;
    Statement& operator=(Statement&&) = delete;
    ~Statement();

    Statement& bind(std::string_view text);
    Statement& bind(std::int64_t number);
    Statement& bind(std::uint64_t number) { return bind(static_cast<std::int64_t>(number)); }
    Statement& bind(std::uint32_t number) { return bind(static_cast<std::int64_t>(number)); }
    Statement& bind(double number);  // NaN becomes NULL
    Statement& bind_null();

    Result<bool> step();  // true: a row is there
    Result<void> run();   // for statements without rows

    std::string text(int column) const;
    std::int64_t integer(int column) const;
    std::uint64_t count(int column) const { return static_cast<std::uint64_t>(integer(column)); }
    double real(int column) const;  // NULL becomes NaN
    bool is_null(int column) const;

private:
    friend class Database;
    Statement(Database& database, sqlite3_stmt* statement) : database_(&database), statement_(statement) {}

    Database* database_;
    sqlite3_stmt* statement_;
    int bound_ = 0;
    bool bind_failed_ = false;
};

// One connection: WAL, synchronous=FULL. Unmovable, because statements point at it; used from one strand.
class Database {
public:
    static Result<std::unique_ptr<Database>> open(const Path& path);
    static Result<std::unique_ptr<Database>> open_to_read(
        const Path& path);  // changes nothing, creates nothing
    Database(const Database&) = delete;
    Database& operator=(const Database&) = delete;
    ~Database();

    Result<Statement> prepare(std::string_view sql);  // `sql` is a literal: it is also the cache's key
    Result<void> execute(const std::string& sql);
    std::uint64_t changed_rows() const;  // by the last statement
    const Path& path() const { return path_; }

    Error error(std::string_view doing) const;

private:
    friend class Transaction;
    explicit Database(Path path);

    struct Cache;
    Path path_;
    sqlite3* handle_ = nullptr;
    std::unique_ptr<Cache> cache_;
    int transactions_ = 0;  // that live, one inside the other
};

// BEGIN IMMEDIATE ... COMMIT; rolls back when it goes without a commit. One that begins while another lives
// is a part of that one: it comes to the disk with it, and a rollback of its own takes back no more than
// itself.
class Transaction {
public:
    static Result<Transaction> begin(Database& database);
    static Result<Transaction> begin_reading(Database& database);  // the same moment for all that is read
    Transaction(Transaction&& other) noexcept : database_(other.database_) { other.database_ = nullptr; }
    Transaction& operator=(Transaction&&) = delete;
    ~Transaction();

    Result<void> commit();

private:
    explicit Transaction(Database& database) : database_(&database) { ++database.transactions_; }
    Database* database_;
};

}  // namespace fedllm::server::store
