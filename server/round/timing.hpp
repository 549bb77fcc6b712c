// The machine's conclusions about time and numbers. Private to server/round.
#pragma once

#include <cstddef>
#include <optional>

#include "server/round/machine.hpp"

namespace fedllm::server::round {

Duration working_time(const JobState& state, Timestamp now);
Timestamp moment_of(const JobState& state, Duration working_time);  // unless the job is paused before

// How long one waits for clients that may still come, or come back.
Duration patience(const JobState& state);

// When somebody asked is no longer counted on, if nothing is heard of it until then.
Duration missing_from(const JobState& state, const ClientId& client, const Part& part);

// JobState::last_moments, after this client's part was put; and all of them, after a restart.
void keep_last_moment(JobState& state, const ClientId& client, const Part& part);
void keep_last_moments(JobState& state);

// When the round closes without those still missing; none before enough have answered.
std::optional<Duration> deadline(const JobState& state);

// All of these speak of the moment `state.worked`.
bool may_close(const JobState& state);   // Training
bool may_finish(const JobState& state);  // FinalEvaluation

// The next moment at which time alone changes something.
std::optional<Duration> next_wake(const JobState& state);

}  // namespace fedllm::server::round
