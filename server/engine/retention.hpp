// What of a job's files may go, and when. Pure; Engine::expire carries it out.
#pragma once

#include <cstdint>
#include <vector>

#include "server/store/rows.hpp"

namespace fedllm::server::engine {

struct RetentionRules {
    std::uint32_t versions = 10;  // the newest so many of each job, besides the initial one; at least 2
    std::uint32_t updates = 0;    // rounds whose updates stay after the commit, for audits
};

// The rounds of the versions whose files may go now, out of all of a job's (the initial one first). What
// stays: the initial version; the newest rules.versions, counted back from the oldest version that a task
// still starts from, for its client may yet fetch it and the steps that lead to it; and what the kept updates
// start from.
std::vector<RoundId> expired_versions(const std::vector<store::VersionRow>& versions, RoundId oldest_needed,
                                      const RetentionRules& rules);

}  // namespace fedllm::server::engine
