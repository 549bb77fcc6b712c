// The ledger's tables, and how those of an earlier version become them. Private to server/store.
#pragma once

#include "common/base/result.hpp"
#include "server/store/sqlite.hpp"

namespace fedllm::server::store {

// A fresh database gets the tables; one of an earlier version is brought up to date, whole or not at all.
// StoreFailed when the file is damaged, Unsupported when a newer fedllm-server wrote it.
Result<void> prepare_schema(Database& database);

// The same for a reader, who changes nothing: Unsupported for any other version.
Result<void> require_schema(Database& database);

}  // namespace fedllm::server::store
