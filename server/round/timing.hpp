// The machine's conclusions about time and numbers. Private to server/round.
#pragma once

#include <cstddef>
#include <optional>

#include "server/round/machine.hpp"

namespace fedllm::server::round {

// How long one waits for clients that may still come, or come back.
Duration patience(const JobState& state);
// How long the open round has been worked on at `time`, not counting the downtime of a restart.
Duration elapsed_at(const JobState& state, Timestamp time);

std::size_t count(const JobState& state, PartState wanted);
// Asked, and away for longer than patience.
bool is_lost(const JobState& state, const Part& part, Timestamp now);
std::size_t count_expected(const JobState& state, Timestamp now);  // asked and not lost

// When the round closes without those still missing; none before enough have answered.
std::optional<Timestamp> deadline(const JobState& state);

bool may_close(const JobState& state, Timestamp now);   // Training
bool may_finish(const JobState& state, Timestamp now);  // FinalEvaluation

// The next moment at which time alone changes something.
std::optional<Timestamp> next_wake(const JobState& state, Timestamp now);

}  // namespace fedllm::server::round
