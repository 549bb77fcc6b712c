#include "server/round/timing.hpp"

#include <algorithm>
#include <vector>

namespace fedllm::server::round {
namespace {

using namespace std::chrono_literals;

constexpr Duration kPatienceMin = 10s;
constexpr Duration kGraceMin = 2s;
constexpr Duration kBlink = 2s;   // a cut connection is mostly back by then
constexpr Duration kLease = 60s;  // two heartbeats of a healthy connection
constexpr int kSlowest = 4;       // nobody is waited for longer than so many times the K-th's time

// After a restart the time worked before it is known only in part, and the missing ones have to come back.
Duration after_recovery(const JobState& state, Duration time) {
    if (!state.recovered) return time;
    return std::max(time, *state.recovered + std::max(state.last_round, patience(state)));
}

// Until when one client is waited for, once the K-th update has come at `kth`.
Duration late_from(const JobState& state, const ClientId& client, const Part& part, Duration kth) {
    const Duration took = std::max(kGraceMin, kth - state.opened);
    Duration time = kth + took;
    if (const auto usual = state.history.expected_time(client)) {
        time = std::clamp(part.asked + *usual, kth + kGraceMin, state.opened + kSlowest * took);
    }
    time = after_recovery(state, time);
    // Who is gone, or silent, is waited for no longer than one waits for anybody.
    return std::min(time, part.left ? *part.left + patience(state) : part.alive + kLease);
}

std::optional<Duration> training_deadline(const JobState& state) {
    const auto kth = state.parts.settled(PartState::Accepted, state.rules.clients_minimum);
    if (!kth) return std::nullopt;
    return std::max(*kth, state.last_moments.latest().value_or(*kth));
}

// The buffer is not full, but nobody is at work who could fill it.
std::optional<Duration> buffer_deadline(const JobState& state) {
    const bool enough = state.parts.count(PartState::Accepted) >= state.rules.clients_minimum;
    if (!enough || state.parts.counted_on() > 0) return std::nullopt;
    return std::max(state.last_accepted, state.opened) + patience(state);
}

// Of the final evaluation, for those who may come to it.
Duration first_moment(const JobState& state) {
    return std::max(state.opened, state.recovered.value_or(state.opened));
}

std::optional<Duration> evaluation_deadline(const JobState& state) {
    const auto last = state.parts.settled(PartState::Evaluated, state.parts.count(PartState::Evaluated));
    if (!last) return std::nullopt;
    return after_recovery(state, *last + std::max(kGraceMin, *last - state.opened));
}

}  // namespace

bool is_over(const JobState& state) {
    return state.phase == Phase::Finished || state.phase == Phase::Failed || state.phase == Phase::Stopped;
}

Duration working_time(const JobState& state, Timestamp now) {
    if (state.paused || state.clock == Timestamp{}) return state.worked;  // the first event starts it
    return state.worked + std::max(Duration{}, now - state.clock);  // the wall clock may have been set back
}

Timestamp moment_of(const JobState& state, Duration time) { return state.clock + (time - state.worked); }

// A tenth of a round, so that a client that is gone for good costs no more than that in each.
Duration patience(const JobState& state) { return std::max(kPatienceMin, state.last_round / 10); }

// A restart of the server cuts everybody off, and so says nothing about anybody; and in the final evaluation
// there is nobody to ask in another's place.
Duration missing_from(const JobState& state, const ClientId& client, const Part& part) {
    if (!part.left) return part.alive + kLease;
    if (state.recovered || state.phase == Phase::FinalEvaluation) return *part.left + patience(state);
    const Duration usual = state.history.expected_absence(client).value_or(kBlink);
    return *part.left + std::clamp(usual, kBlink, patience(state));
}

// What a last moment is made of stays as it is from the K-th update on, but for the part itself.
void keep_last_moment(JobState& state, const ClientId& client, const Part& part) {
    if (state.rules.asynchronous) return;
    const std::size_t needed = state.rules.clients_minimum;
    const auto kth = state.parts.settled(PartState::Accepted, needed);
    if (!kth) return;
    if (part.state == PartState::Asked) {
        state.last_moments.put(client, late_from(state, client, part, *kth));
    } else if (part.state == PartState::Accepted && state.parts.count(PartState::Accepted) == needed) {
        keep_last_moments(state);  // this is the K-th
    } else {
        state.last_moments.erase(client);
    }
}

void keep_last_moments(JobState& state) {
    state.last_moments = {};
    for (const auto& [client, round] : state.parts.asked())
        keep_last_moment(state, client, *state.parts.find({round, client}));
}

std::optional<Duration> deadline(const JobState& state) {
    if (state.phase == Phase::FinalEvaluation) return evaluation_deadline(state);
    return state.rules.asynchronous ? buffer_deadline(state) : training_deadline(state);
}

bool may_close(const JobState& state) {
    const std::size_t accepted = state.parts.count(PartState::Accepted);
    if (accepted < state.rules.clients_minimum) return false;
    if (accepted >= goal(state.rules)) return true;
    if (!state.rules.asynchronous && state.parts.count(PartState::Asked) == 0) return true;
    const auto limit = deadline(state);
    return limit && state.worked >= *limit;
}

bool may_finish(const JobState& state) {
    if (!state.delivered) return false;
    if (const auto limit = deadline(state); limit && state.worked >= *limit) return true;
    if (state.parts.counted_on() > 0 || !state.busy.empty()) return false;
    // Everybody asked has answered or is missing. Right after a restart, or when nobody is there, others get
    // a moment.
    const bool may_still_come = state.recovered || state.parts.empty();
    return !may_still_come || state.worked >= first_moment(state) + patience(state);
}

std::optional<Duration> next_wake(const JobState& state) {
    if (state.paused) return std::nullopt;
    std::vector<Duration> times;
    if (state.phase == Phase::Waiting && state.enough_since)
        times.push_back(*state.enough_since + patience(state));
    if (state.phase == Phase::Training || state.phase == Phase::FinalEvaluation) {
        if (const auto limit = deadline(state)) times.push_back(*limit);
        times.push_back(state.next_look);
    }
    if (state.phase == Phase::FinalEvaluation) {
        times.push_back(first_moment(state) + patience(state));
    }
    std::optional<Duration> next;
    for (const Duration time : times) {
        if (time > state.worked && time != Duration::max() && (!next || time < *next)) next = time;
    }
    return next;
}

}  // namespace fedllm::server::round
