// How the ledger's values look in columns. Private to server/store.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "server/store/rows.hpp"
#include "server/store/sqlite.hpp"

namespace fedllm::server::store {

inline std::int64_t milliseconds(Timestamp time) { return time.time_since_epoch().count(); }
inline Timestamp time_of(std::int64_t milliseconds) { return Timestamp(Duration(milliseconds)); }

// The enumerator called `text`; StoreFailed for a word that this version never wrote.
template <class Status>
Result<Status> parse_status(const Database& database, std::string_view text) {
    for (int i = 0; name(static_cast<Status>(i)) != "unknown"; ++i) {
        if (name(static_cast<Status>(i)) == text) return static_cast<Status>(i);
    }
    return make_error(Errc::StoreFailed,
                      database.path().string() + ": holds the unknown state '" + std::string(text) + "'");
}

}  // namespace fedllm::server::store
