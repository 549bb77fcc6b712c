#include <algorithm>

#include "common/base/text.hpp"
#include "server/round/outlook.hpp"
#include "server/round/timing.hpp"

namespace fedllm::server::round {
namespace {

constexpr std::size_t kNamesMax = 5;

// "site-a", "site-a and site-b", "site-a, site-b, site-c, site-d, site-e and 7 more": `names` are the first
// ones of `total`, one more than is shown where there are more.
std::string list(const std::vector<std::string>& names, std::size_t total) {
    const std::size_t shown = total <= kNamesMax + 1 ? names.size() : kNamesMax;
    std::string text;
    for (std::size_t i = 0; i < shown; ++i) {
        const bool last = i + 1 == total && i > 0;
        text += (i == 0 ? "" : last ? " and " : ", ") + names[i];
    }
    if (shown < total) text += " and " + std::to_string(total - shown) + " more";
    return text;
}

std::string clients(std::size_t number) {
    return number == 1 ? "1 client" : std::to_string(number) + " clients";
}

std::string span(Duration time) {
    const std::int64_t seconds = (std::max(Duration{}, time).count() + 999) / 1000;
    if (seconds < 600) return std::to_string(seconds) + " s";
    if (seconds < 36'000) return std::to_string(seconds / 60) + " min";
    return std::to_string(seconds / 3600) + " h";
}

std::string round_name(std::uint32_t round) { return "round " + std::to_string(round); }

std::string this_round(const JobState& state) { return round_name(state.round.get()); }

std::string those_asked(const JobState& state, Duration now) {
    std::vector<std::string> names;
    for (const auto& [key, part] : state.parts) {
        if (part.state != PartState::Asked) continue;
        if (names.size() > kNamesMax) break;
        std::string name = key.client.get();
        if (part.left) {
            name += " (away for " + span(now - *part.left) + ")";
        } else if (part.missing) {
            name += " (silent for " + span(now - part.alive) + ")";
        }
        names.push_back(std::move(name));
    }
    return list(names, state.parts.count(PartState::Asked));
}

std::string connected_names(const JobState& state) {
    std::vector<std::string> names;
    for (const ClientId& client : state.connected) {
        if (names.size() > kNamesMax) break;
        names.push_back(client.get());
    }
    std::string text =
        names.empty() ? "nobody is connected" : "connected: " + list(names, state.connected.size());
    if (!state.busy.empty())
        text += (names.empty() ? " and free, " : "; ") + std::to_string(state.busy.size()) +
                " at work for another job";
    return text;
}

std::string waiting(const JobState& state) {
    const std::size_t there = state.connected.size();
    std::string text;
    if (there < state.rules.clients_minimum) {
        text = clients(state.rules.clients_minimum - there) + (there > 0 ? " more" : "");
    } else {
        const std::size_t most = std::max<std::size_t>(there, state.rules.clients_per_round);
        text = clients(most - there) + " more";
    }
    return text + " with base model '" + state.rules.base_model + "' (" + connected_names(state) + ")";
}

std::string tally(const JobState& state) {
    const std::size_t accepted = state.parts.count(PartState::Accepted), most = goal(state.rules);
    const std::size_t needed = state.rules.asynchronous ? most : state.rules.clients_minimum;
    std::string text = std::to_string(accepted) + " of " + (needed < most ? "at least " : "") +
                       std::to_string(needed) + (accepted == 1 ? " is in" : " are in");
    if (const std::size_t declined = state.parts.count(PartState::Declined); declined > 0)
        text += ", " + std::to_string(declined) + " declined";
    if (const std::size_t refused = state.parts.count(PartState::Refused); refused > 0)
        text += ", " + std::to_string(refused) + " refused";
    return text;
}

std::string training(const JobState& state, Duration now) {
    const std::size_t needed = state.rules.clients_minimum;
    const std::size_t possible = state.parts.count(PartState::Accepted) + state.parts.counted_on();
    const std::string asked = those_asked(state, now);
    std::string text;
    if (!asked.empty()) {
        text = asked + " to send updates" +
               (state.rules.asynchronous ? " for version " + std::to_string(state.round.get() + 1)
                                         : " of " + this_round(state));
    }
    if (possible < needed) {
        text += (asked.empty() ? "" : ", or ") + clients(needed - possible) + " more to take part in " +
                this_round(state);
    } else if (asked.empty()) {
        text = "more clients to fill the buffer, " + connected_names(state);
    }
    return text + " (" + tally(state) + ")";
}

std::string evaluation(const JobState& state, Duration now) {
    const std::string asked = those_asked(state, now);
    if (asked.empty()) return "clients to evaluate the final version (" + connected_names(state) + ")";
    return asked + " to evaluate the final version (" +
           std::to_string(state.parts.count(PartState::Evaluated)) + " answered)";
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

std::string awaited(const JobState& state, Timestamp now) {
    if (state.paused && state.phase != Phase::Aggregating) {
        return "somebody to resume the job, which was paused: " + state.paused->cause;
    }
    const Duration time = working_time(state, now);
    switch (state.phase) {
        case Phase::Waiting: return waiting(state);
        case Phase::Training: return training(state, time);
        case Phase::Aggregating:
            return "the mean of " + std::to_string(state.parts.count(PartState::Accepted)) + " updates of " +
                   this_round(state) + " to be written";
        case Phase::FinalEvaluation: return evaluation(state, time);
        case Phase::Finished: return "nothing: the job is finished";
        case Phase::Failed: return "nothing: the job failed: " + state.cause;
        case Phase::Stopped: return "nothing: the job was stopped: " + state.cause;
    }
    return "";
}

std::string waiting_for(const JobState& state, Timestamp now) {
    if (is_over(state)) return awaited(state, now);
    return awaited(state, now) + ", since " + format_utc(waiting_since(state), now) + "; then " +
           what_follows(state, now);
}

}  // namespace fedllm::server::round
