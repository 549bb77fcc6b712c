// What the ledger remembers, as values. Times are milliseconds since the Unix epoch in the database.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/clock.hpp"
#include "common/base/ids.hpp"

namespace fedllm::server::store {

constexpr double kNoLoss = std::numeric_limits<double>::quiet_NaN();  // NULL in the database

// Paused: no task goes out until somebody resumes it. Stopped: ended by somebody, for a cause.
enum class JobStatus { Running, Finished, Failed, Paused, Stopped };
// Closing: the set of counted contributions is fixed, the new version is being computed.
enum class RoundStatus { Open, Closing, Committed };
// Dropped: asked, but the round closed without it. Evaluated: answered in the final evaluation.
enum class PartStatus { Asked, Accepted, Refused, Declined, Dropped, Evaluated };

std::string_view name(JobStatus status);
std::string_view name(RoundStatus status);
std::string_view name(PartStatus status);

struct JobRow {
    JobId id;
    std::string name;
    std::string yaml;  // canonical job file
    JobStatus status = JobStatus::Running;
    Timestamp created{};
    RoundId round;             // rounds committed so far: the round that is open or comes next
    std::string model_digest;  // the latest version
    std::string detail;        // why it failed, was paused or stopped
    std::string chain;         // before the first round; see chain.hpp
    bool operator==(const JobRow&) const = default;
};

// A round's record. Round number job.rounds, one beyond the last, is the final evaluation: no next_digest.
struct RoundRow {
    JobId job;
    RoundId round;
    RoundStatus status = RoundStatus::Open;
    std::string model_digest;  // the version it starts from
    Timestamp opened{};
    std::optional<Timestamp> closed;
    double eval_loss = kNoLoss;   // of model_digest, over all clients' held-out tokens
    double train_loss = kNoLoss;  // weighted mean of the counted updates' losses
    std::string next_digest;
    std::string chain;  // once it is committed; see chain.hpp
};

// One client's part in a round.
struct PartRow {
    JobId job;
    RoundId round;  // of the version it starts from
    ClientId client;
    TaskId task;
    PartStatus status = PartStatus::Asked;
    std::uint64_t weight = 0;
    std::uint64_t samples = 0;
    std::uint64_t tokens = 0;
    std::string update_digest;
    std::uint64_t bytes = 0;       // of the update
    std::uint64_t bytes_down = 0;  // of the version it started from, as far as it had to be sent
    double train_loss = kNoLoss;
    double train_seconds = 0;
    double eval_loss_sum = 0;
    std::uint64_t eval_tokens = 0;
    std::string codec;              // of the update: a name of common/codec
    std::uint64_t elements = 0;     // values that it stands for
    double quantisation_error = 0;  // |x - decoded|^2 / |x|^2 of what was encoded
    double residual_norm = 0;       // L2 of what the client keeps for its next update
    std::string reason;             // an error code's name when refused or declined
    std::string detail;
    std::optional<Timestamp> accepted;
    Duration elapsed{};  // from the round's opening to `accepted`
    RoundId counted;  // of an accepted one: the round whose sum it is in; asynchronous jobs count later ones
};

struct VersionRow {
    std::string digest;
    JobId job;
    RoundId round;  // the round that starts from it: 0 for the initial version
    std::uint64_t bytes = 0;
    Timestamp created{};
    // The step from the version before, where the job's download.codec makes one; else empty.
    std::string base_digest{};
    std::string encoded_digest{};
    std::uint64_t encoded_bytes = 0;
    std::string residual_digest{};  // of what the published versions have left out so far; empty: nothing
    std::optional<Timestamp> removed{};  // when retention took its files
    bool operator==(const VersionRow&) const = default;
};

}  // namespace fedllm::server::store
