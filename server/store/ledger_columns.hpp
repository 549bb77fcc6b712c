// How the ledger's values look in columns. Private to server/store.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

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

// The parts counted in a round, ordered by client and then by the round they started from.
Result<std::vector<PartRow>> read_contributions(Database& database, const JobId& job, RoundId round);

// Write the chain's value of a job, or of a round whose other columns are written already.
Result<void> seal_job(Database& database, const JobId& job);
Result<void> seal_round(Database& database, const JobId& job, RoundId round);

}  // namespace fedllm::server::store
