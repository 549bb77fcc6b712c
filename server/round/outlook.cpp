#include "server/round/outlook.hpp"

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

Reason reason_of(const JobState& state, Timestamp now) {
    if (is_over(state)) return Reason::Nothing;
    if (state.phase == Phase::Aggregating) return Reason::Mean;
    if (state.paused) return Reason::Operator;
    if (state.phase == Phase::Waiting) return reason_to_open(state);
    if (state.phase == Phase::FinalEvaluation) return Reason::Evaluations;
    const std::size_t possible = count(state, PartState::Accepted) + count_expected(state, now);
    return possible < state.rules.clients_minimum ? Reason::Replacements : Reason::Updates;
}

std::optional<Timestamp> waiting_since(const JobState& state) {
    if (state.paused) return state.paused->since;
    if (state.phase == Phase::Waiting) return state.enough_since;
    if (state.phase == Phase::Training || state.phase == Phase::FinalEvaluation) return state.opened;
    return std::nullopt;
}

std::optional<Timestamp> closes_at(const JobState& state) {
    if (state.paused) return std::nullopt;
    return deadline(state);
}

// The last round's duration is all that is known of the next one.
std::optional<Timestamp> expected_by(const JobState& state, const ClientId& client) {
    if (state.paused || state.last_round == Duration{} || !is_asked(state, client)) return std::nullopt;
    return state.clock - state.worked + state.last_round;
}

std::optional<Timestamp> counted_on_until(const JobState& state, const ClientId& client) {
    const auto part = state.parts.find(client);
    if (part == state.parts.end() || !part->second.left || state.paused) return std::nullopt;
    return *part->second.left + patience(state);
}

std::string what_follows(const JobState& state, Timestamp now) {
    switch (reason_of(state, now)) {
        case Reason::Clients: return "round " + number(state.round) + " opens as soon as they are connected";
        case Reason::BusyClients:
            return "round " + number(state.round) + " opens when their tasks for other jobs are done";
        case Reason::MoreClients: return "round " + number(state.round) + " opens with those who are there";
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
