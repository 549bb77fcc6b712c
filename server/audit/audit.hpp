// An audit of one job: its hash chain, its version files, and the means that can still be computed again.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/ingest/spool.hpp"
#include "server/store/ledger.hpp"
#include "server/store/versions.hpp"

namespace fedllm::server::audit {

// What the ledger says about a job, as far as it went into versions.
struct History {
    store::JobRow job;
    std::vector<store::RoundRow> rounds;               // committed ones that made a version, in order
    std::vector<std::vector<store::PartRow>> counted;  // of each of them
    std::vector<store::VersionRow> versions;           // the initial one first; empty: came without files
};

// Of one moment, also while the server writes. NotFound.
Result<History> read_history(const store::Ledger& ledger, const JobId& job);

enum class Verdict {
    Fits,
    Broken,
    NotKept,     // what it needs was removed by retention
    NotChecked,  // there were no files to look at
};
std::string_view name(Verdict verdict);

struct RoundFinding {
    RoundId round;
    std::size_t contributions = 0;
    std::uint64_t weight = 0;
    std::string chain;  // its value after the round
    Verdict link = Verdict::NotChecked;
    Verdict version = Verdict::NotChecked;  // the file of the version that the round made
    Verdict mean = Verdict::NotChecked;     // computed again from the updates
    std::string problem;                    // the first one, in words
};

struct Report {
    JobId job;
    Verdict initial = Verdict::NotChecked;  // version
    std::string chain;                      // the last value
    std::string problem;                    // of the job as a whole, or its initial version
    std::vector<RoundFinding> rounds;

    // The first thing that does not fit: "round 3: ..."; nothing when all fits.
    std::optional<std::string> first_problem() const;
};

// From the rows alone. `expected`, when not empty, is a value of the chain noted earlier: it must occur.
Report check_chain(const History& history, std::string_view expected = {});

// Adds what the files say. Reads only.
void check_files(const History& history, const store::Versions& versions, const ingest::Spool& spool,
                 Report& report);

// Nothing when the version of `next` is, bit for bit, what the contributions make of `base`. NotFound when a
// file that this needs is not kept; DigestMismatch, or the file's own error, when something does not fit.
Result<void> recompute(const std::string& job_yaml, const store::VersionRow& base,
                       const store::VersionRow& next, const std::vector<store::PartRow>& counted,
                       const store::Versions& versions, const ingest::Spool& spool);

}  // namespace fedllm::server::audit
