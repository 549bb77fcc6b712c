#include <algorithm>

#include "server/round/timing.hpp"

namespace fedllm::server::round {
namespace {

constexpr std::size_t kNamesMax = 5;

// "site-a", "site-a and site-b", "site-a, site-b, site-c, site-d, site-e and 7 more".
std::string list(const std::vector<std::string>& names) {
    const std::size_t shown = names.size() <= kNamesMax + 1 ? names.size() : kNamesMax;
    std::string text;
    for (std::size_t i = 0; i < shown; ++i) {
        const bool last = i + 1 == names.size() && i > 0;
        text += (i == 0 ? "" : last ? " and " : ", ") + names[i];
    }
    if (shown < names.size()) text += " and " + std::to_string(names.size() - shown) + " more";
    return text;
}

std::string clients(std::size_t number) {
    return number == 1 ? "1 client" : std::to_string(number) + " clients";
}

std::string seconds_until(Timestamp when, Timestamp now) {
    const auto left = std::max(Duration{}, when - now);
    return std::to_string((left.count() + 999) / 1000) + " s";
}

std::string away(const Part& part, Timestamp now) {
    if (!part.left) return "";
    return " (away for " + seconds_until(now, *part.left) + ")";
}

std::string those_asked(const JobState& state, Timestamp now) {
    std::vector<std::string> names;
    for (const auto& [client, part] : state.parts) {
        if (part.state == PartState::Asked) names.push_back(client.get() + away(part, now));
    }
    return list(names);
}

std::string connected_names(const JobState& state) {
    std::vector<std::string> names;
    for (const ClientId& client : state.connected) names.push_back(client.get());
    return names.empty() ? "nobody is connected" : "connected: " + list(names);
}

std::string waiting(const JobState& state, Timestamp now) {
    const std::size_t there = state.connected.size();
    if (there < state.rules.clients_minimum) {
        return clients(state.rules.clients_minimum - there) + (there > 0 ? " more" : "") +
               " with base model '" + state.rules.base_model + "' (" + connected_names(state) + ")";
    }
    const std::string more =
        clients(state.rules.clients_per_round - std::min<std::size_t>(there, state.rules.clients_per_round));
    if (!state.enough_since) return "round " + std::to_string(state.round.get()) + " to open";
    return more + " more with base model '" + state.rules.base_model + "', for another " +
           seconds_until(*state.enough_since + patience(state), now) + " at most (" + connected_names(state) +
           ")";
}

std::string training(const JobState& state, Timestamp now) {
    const std::size_t accepted = count(state, PartState::Accepted);
    const std::size_t needed = state.rules.clients_minimum;
    const std::string tally = std::to_string(accepted) + " of " +
                              (needed < state.rules.clients_per_round ? "at least " : "") +
                              std::to_string(needed) + (accepted == 1 ? " is in" : " are in");
    const std::string asked = those_asked(state, now);
    std::string text;
    if (!asked.empty()) text = asked + " to send updates of round " + std::to_string(state.round.get());
    const std::size_t possible = accepted + count_expected(state, now);
    if (possible < needed) {
        text += (text.empty() ? "" : ", or ") + clients(needed - possible) + " more to take part in round " +
                std::to_string(state.round.get()) + " (" + std::to_string(count(state, PartState::Declined)) +
                " declined, " + std::to_string(count(state, PartState::Refused)) + " refused)";
    }
    text += "; " + tally;
    if (const auto limit = deadline(state))
        text += ", closes without the missing in " + seconds_until(*limit, now);
    return text;
}

std::string evaluation(const JobState& state, Timestamp now) {
    const std::string asked = those_asked(state, now);
    if (asked.empty()) return "clients to evaluate the final version (" + connected_names(state) + ")";
    return asked + " to evaluate the final version; " + std::to_string(count(state, PartState::Evaluated)) +
           " answered";
}

std::string paused(const JobState& state, Timestamp now) {
    return "somebody to resume the job, paused for " + seconds_until(now, state.paused->since) + " (" +
           state.paused->cause + "); then round " + std::to_string(state.round.get()) + " goes on";
}

}  // namespace

std::string_view name(Phase phase) {
    switch (phase) {
        case Phase::Waiting: return "waiting";
        case Phase::Training: return "training";
        case Phase::Aggregating: return "aggregating";
        case Phase::FinalEvaluation: return "final_evaluation";
        case Phase::Finished: return "finished";
        case Phase::Failed: return "failed";
        case Phase::Stopped: return "stopped";
    }
    return "unknown";
}

std::string waiting_for(const JobState& state, Timestamp now) {
    if (state.paused && state.phase != Phase::Aggregating) return paused(state, now);
    switch (state.phase) {
        case Phase::Waiting: return waiting(state, now);
        case Phase::Training: return training(state, now);
        case Phase::Aggregating:
            return "the mean of " + std::to_string(count(state, PartState::Accepted)) + " updates of round " +
                   std::to_string(state.round.get()) + " to be written";
        case Phase::FinalEvaluation: return evaluation(state, now);
        case Phase::Finished: return "nothing: the job is finished";
        case Phase::Failed: return "nothing: the job failed: " + state.cause;
        case Phase::Stopped: return "nothing: the job was stopped: " + state.cause;
    }
    return "";
}

}  // namespace fedllm::server::round
