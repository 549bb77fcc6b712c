// A SQLite VFS whose files lie on a Disk, so that the ledger lives through what that disk does.
//
// No shared memory and no locks: the database must be opened with locking_mode=EXCLUSIVE (store/sqlite does),
// by one connection at a time. No sleep, no clock, and randomness from a count: worlds are the same every
// time.
#pragma once

#include <memory>

#include "common/base/disk.hpp"

struct sqlite3_vfs;

namespace fedllm::tools::world {

// Registered with SQLite under a name of its own while it lives; the databases on it do not outlive it.
class SqliteDriver {
public:
    explicit SqliteDriver(Disk& disk);
    SqliteDriver(const SqliteDriver&) = delete;
    SqliteDriver& operator=(const SqliteDriver&) = delete;
    ~SqliteDriver();

    const char* name() const;

    struct Files;  // what SQLite is given: the disk and what its files need

private:
    std::unique_ptr<Files> files_;
    std::unique_ptr<sqlite3_vfs> vfs_;
};

}  // namespace fedllm::tools::world
