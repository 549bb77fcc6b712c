// What is expected of the open round and of each client in it, in wall time, for whoever asks why.
#pragma once

#include <optional>

#include "server/round/machine.hpp"

namespace fedllm::server::round {

// When the open round closes without those still missing; nothing before enough have answered, or while
// paused.
std::optional<Timestamp> closes_at(const JobState& state);

// A client whose answer is still wanted.
struct Expected {
    RoundId round;  // of the version it started from
    Timestamp asked{};
    std::optional<Timestamp> by;  // when its answer is expected; nothing before it is known how long it takes
    std::optional<Timestamp> left;  // since when it is away
    std::optional<Timestamp>
        counted_on_until;  // while it is away; nothing when it is not counted on any more
};
std::optional<Expected> expected_of(const JobState& state, const ClientId& client);

}  // namespace fedllm::server::round
