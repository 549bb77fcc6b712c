#include "server/round/outlook.hpp"

#include <algorithm>

#include "common/base/text.hpp"
#include "server/round/timing.hpp"

namespace fedllm::server::round {
namespace {

std::string number(RoundId round) { return std::to_string(round.get()); }

std::string after_round(const JobState& state) {
    const RoundId next(state.round.get() + 1);
    if (next.get() >= state.rules.rounds) return "the final version is evaluated";
    return "round " + number(next) + " opens";
}

std::string when_updates_are_in(const JobState& state, Timestamp now) {
    const std::string closing = "round " + number(state.round) + " closes";
    if (const auto limit = closes_at(state)) {
        return closing + " at " + format_utc(*limit, now) +
               " without those who are still missing, and then " + after_round(state);
    }
    return closing + " when enough are in, and then " + after_round(state);
}

std::string when_patience_ends(const JobState& state, Timestamp now) {
    const Duration from = state.enough_since.value_or(state.worked);
    return "round " + number(state.round) + " opens at " +
           format_utc(moment_of(state, from + patience(state)), now) + " with those who are there";
}

Reason reason_to_open(const JobState& state) {
    const std::size_t needed = state.rules.clients_minimum;
    if (state.connected.size() >= needed) return Reason::MoreClients;
    return state.connected.size() + state.busy.size() >= needed ? Reason::BusyClients : Reason::Clients;
}

}  // namespace

std::string_view name(Reason reason) {
    switch (reason) {
        case Reason::Clients: return "clients";
        case Reason::BusyClients: return "busy_clients";
        case Reason::MoreClients: return "more_clients";
        case Reason::Updates: return "updates";
        case Reason::Replacements: return "replacements";
        case Reason::Mean: return "mean";
        case Reason::Evaluations: return "evaluations";
        case Reason::Operator: return "operator";
        case Reason::Nothing: return "nothing";
    }
    return "unknown";
}

Reason reason_of(const JobState& state) {
    if (is_over(state)) return Reason::Nothing;
    if (state.phase == Phase::Aggregating) return Reason::Mean;
    if (state.paused) return Reason::Operator;
    if (state.phase == Phase::Waiting) return reason_to_open(state);
    if (state.phase == Phase::FinalEvaluation) return Reason::Evaluations;
    if (state.rules.asynchronous && state.parts.count(PartState::Asked) == 0) return Reason::Replacements;
    const std::size_t possible = state.parts.count(PartState::Accepted) + state.parts.counted_on();
    return possible < state.rules.clients_minimum ? Reason::Replacements : Reason::Updates;
}

Timestamp waiting_since(const JobState& state) {
    if (state.paused && state.phase != Phase::Aggregating) return state.paused->since;
    Duration since = state.since;
    if (state.phase == Phase::Waiting) since = state.enough_since.value_or(since);
    if (state.phase == Phase::Training) since = std::max(state.opened, state.last_accepted);
    return moment_of(state, since);
}

std::optional<Timestamp> closes_at(const JobState& state) {
    const bool open = state.phase == Phase::Training || state.phase == Phase::FinalEvaluation;
    const auto limit = open && !state.paused ? deadline(state) : std::nullopt;
    return limit ? std::optional(moment_of(state, *limit)) : std::nullopt;
}

// By what it usually takes; the last round's duration is all that is known of others.
std::optional<Timestamp> expected_by(const JobState& state, const ClientId& client) {
    const auto task = state.parts.task_of(client);
    if (!task || state.paused || is_over(state)) return std::nullopt;
    const auto usual = state.history.expected_time(client);
    if (!usual && state.last_round == Duration{}) return std::nullopt;
    return moment_of(state, state.parts.find(*task)->asked + usual.value_or(state.last_round));
}

std::optional<Timestamp> counted_on_until(const JobState& state, const ClientId& client) {
    const auto task = state.parts.task_of(client);
    if (!task || state.paused || !state.parts.find(*task)->left) return std::nullopt;
    return moment_of(state, missing_from(state, client, *state.parts.find(*task)));
}

std::string what_follows(const JobState& state, Timestamp now) {
    switch (reason_of(state)) {
        case Reason::Clients: return "round " + number(state.round) + " opens as soon as they are connected";
        case Reason::BusyClients:
            return "round " + number(state.round) + " opens when their tasks for other jobs are done";
        case Reason::MoreClients: return when_patience_ends(state, now);
        case Reason::Updates: return when_updates_are_in(state, now);
        case Reason::Replacements: return "whoever else connects is asked in the place of those who are lost";
        case Reason::Mean: return after_round(state);
        case Reason::Evaluations: return "the job is finished";
        case Reason::Operator: return "it goes on after 'fedllm job resume " + state.rules.job.get() + "'";
        case Reason::Nothing: return "nothing";
    }
    return "";
}

}  // namespace fedllm::server::round
