#include "server/round/outlook.hpp"

#include "server/round/timing.hpp"

namespace fedllm::server::round {

std::optional<Timestamp> closes_at(const JobState& state) {
    if (state.paused || (state.phase != Phase::Training && state.phase != Phase::FinalEvaluation))
        return std::nullopt;
    if (state.phase == Phase::FinalEvaluation && !state.delivered) return std::nullopt;
    const auto limit = deadline(state);
    return limit ? std::optional(moment_of(state, *limit)) : std::nullopt;
}

std::optional<Expected> expected_of(const JobState& state, const ClientId& client) {
    const auto key = is_over(state) ? std::nullopt : state.parts.task_of(client);
    if (!key) return std::nullopt;
    const Part& part = *state.parts.find(*key);
    Expected expected{key->round, moment_of(state, part.asked), {}, {}, {}};
    if (part.left) expected.left = moment_of(state, *part.left);
    if (state.paused) return expected;
    const auto usual = state.history.expected_time(client);
    if (usual && state.phase != Phase::FinalEvaluation) expected.by = moment_of(state, part.asked + *usual);
    if (part.left && !part.missing) {
        expected.counted_on_until = moment_of(state, missing_from(state, client, part));
    }
    return expected;
}

}  // namespace fedllm::server::round
