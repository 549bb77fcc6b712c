// Why a job waits, since when, and what will happen, for whoever asks: metrics, the log, `fedllm why`.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "server/round/machine.hpp"

namespace fedllm::server::round {

// What waiting_for() says in a sentence, as one of few words: a metric's label.
enum class Reason {
    Clients,       // fewer are connected than a round needs
    BusyClients,   // enough are, but other jobs have them
    MoreClients,   // enough are there, and a few more may come
    Updates,       // of those asked
    Replacements,  // those asked cannot make up the minimum any more
    Mean,          // the round is closed, its version is being computed
    Evaluations,   // of the final version
    Operator,      // paused
    Nothing,       // the job is over
};
std::string_view name(Reason reason);
Reason reason_of(const JobState& state);

// As far as the state itself knows it; a change of reason may be later.
Timestamp waiting_since(const JobState& state);

// When the open round closes without those still missing; nothing before enough have answered.
std::optional<Timestamp> closes_at(const JobState& state);
// When an asked client's answer is expected; nothing before it is known how long it takes.
std::optional<Timestamp> expected_by(const JobState& state, const ClientId& client);
// When an asked client that is away is no longer counted on.
std::optional<Timestamp> counted_on_until(const JobState& state, const ClientId& client);

// What happens next, as a clause: "round 3 opens as soon as they are there".
std::string what_follows(const JobState& state, Timestamp now);

}  // namespace fedllm::server::round
