#include <algorithm>

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

// What comes after the open round.
std::string opens_next(const JobState& state) {
    const std::uint32_t next = state.round.get() + 1;
    return next < state.rules.rounds ? round_name(next) + " opens" : "the final evaluation begins";
}

std::string those_asked(const JobState& state, Duration now) {
    std::vector<std::string> names;
    for (const auto& [client, round] : state.parts.asked()) {
        if (names.size() > kNamesMax) break;
        const Part& part = *state.parts.find({round, client});
        std::string name = client.get();
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
        names.empty() ? "nobody suitable is connected" : "connected: " + list(names, state.connected.size());
    if (!state.busy.empty())
        text += (names.empty() ? " and free, " : "; ") + std::to_string(state.busy.size()) +
                " at work for another job";
    return text;
}

Wait waiting(const JobState& state, Duration now) {
    const std::size_t there = state.connected.size();
    Wait wait{"clients", "", now - state.since, ""};
    if (there < state.rules.clients_minimum) {
        wait.what = clients(state.rules.clients_minimum - there) + (there > 0 ? " more" : "");
        wait.next = "then " + this_round(state) + " opens";
    } else {
        const std::size_t most = std::max<std::size_t>(there, state.rules.clients_per_round);
        wait.what = clients(most - there) + " more";
        const Duration left = state.enough_since ? *state.enough_since + patience(state) - now : Duration{};
        wait.next = this_round(state) + " opens in " + span(left) + " without";
        wait.since = now - state.enough_since.value_or(state.since);
    }
    wait.what += " with base model '" + state.rules.base_model + "' (" + connected_names(state) + ")";
    return wait;
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

Wait training(const JobState& state, Duration now) {
    const std::size_t accepted = state.parts.count(PartState::Accepted);
    const std::size_t needed = state.rules.clients_minimum;
    const std::size_t possible = accepted + state.parts.counted_on();
    Wait wait{"updates", "", now - std::max(state.opened, state.last_accepted), ""};
    const std::string asked = those_asked(state, now);
    if (!asked.empty()) {
        wait.what = asked + " to send updates" +
                    (state.rules.asynchronous ? " for version " + std::to_string(state.round.get() + 1)
                                              : " of " + this_round(state));
    }
    if (possible < needed) {
        wait.reason = "replacements";
        wait.what += (asked.empty() ? "" : ", or ") + clients(needed - possible) + " more to take part in " +
                     this_round(state);
    } else if (asked.empty()) {
        wait.reason = "replacements";
        wait.what = "more clients to fill the buffer (" + connected_names(state) + ")";
    }
    wait.what += " (" + tally(state) + ")";
    const auto limit = deadline(state);
    wait.next = limit ? this_round(state) + " closes in " + span(*limit - now) + " without the missing"
                      : "then " + this_round(state) + " closes";
    return wait;
}

Wait evaluation(const JobState& state, Duration now) {
    if (!state.delivered && state.parts.counted_on() == 0) {
        return {"commit", "the final version to be on the disk, and its adapter", now - state.since,
                "then the job is finished"};
    }
    Wait wait{"evaluation", those_asked(state, now), now - state.since, "then the job is finished"};
    if (wait.what.empty()) {
        wait.what = "clients to evaluate the final version (" + connected_names(state) + ")";
    } else {
        wait.what += " to evaluate the final version (" +
                     std::to_string(state.parts.count(PartState::Evaluated)) + " answered)";
    }
    return wait;
}

Wait nothing(const std::string& why) { return {"nothing", "nothing: " + why, Duration{}, ""}; }

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

Wait wait_of(const JobState& state, Timestamp now) {
    const Duration time = working_time(state, now);
    if (state.phase == Phase::Aggregating) {
        return {"commit",
                "the mean of " + std::to_string(state.parts.count(PartState::Accepted)) + " updates of " +
                    this_round(state) + " to be written",
                time - state.since, "then " + (state.paused ? "the job pauses" : opens_next(state))};
    }
    if (state.paused) {
        return {"resume", "somebody to resume the job, which was paused: " + state.paused->cause,
                now - state.paused->since, "then " + this_round(state) + " goes on"};
    }
    switch (state.phase) {
        case Phase::Waiting: return waiting(state, time);
        case Phase::Training: return training(state, time);
        case Phase::FinalEvaluation: return evaluation(state, time);
        case Phase::Finished: return nothing("the job is finished");
        case Phase::Failed: return nothing("the job failed: " + state.cause);
        case Phase::Stopped: return nothing("the job was stopped: " + state.cause);
        case Phase::Aggregating: break;
    }
    return nothing("");
}

std::string waiting_for(const JobState& state, Timestamp now) {
    const Wait wait = wait_of(state, now);
    if (wait.next.empty()) return wait.what;
    return wait.what + ", for " + span(wait.since) + "; " + wait.next;
}

}  // namespace fedllm::server::round
