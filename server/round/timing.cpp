#include "server/round/timing.hpp"

#include <algorithm>
#include <vector>

namespace fedllm::server::round {
namespace {

using namespace std::chrono_literals;

constexpr Duration kPatienceMin = 10s;
constexpr Duration kGraceMin = 2s;

}  // namespace

bool is_over(const JobState& state) {
    return state.phase == Phase::Finished || state.phase == Phase::Failed || state.phase == Phase::Stopped;
}

// A tenth of a round, so that a client that is gone for good costs no more than that in each.
Duration patience(const JobState& state) { return std::max(kPatienceMin, state.last_round / 10); }

Duration elapsed_at(const JobState& state, Timestamp time) {
    if (state.paused) time = std::min(time, state.paused->since);
    const Duration elapsed = time >= state.clock ? state.worked + (time - state.clock) : time - state.opened;
    return std::max(Duration{}, elapsed);  // the wall clock may have been set back
}

std::size_t count(const JobState& state, PartState wanted) {
    return static_cast<std::size_t>(
        std::count_if(state.parts.begin(), state.parts.end(),
                      [&](const auto& entry) { return entry.second.state == wanted; }));
}

bool is_lost(const JobState& state, const Part& part, Timestamp now) {
    return part.state == PartState::Asked && part.left && now >= *part.left + patience(state);
}

std::size_t count_expected(const JobState& state, Timestamp now) {
    return static_cast<std::size_t>(
        std::count_if(state.parts.begin(), state.parts.end(), [&](const auto& entry) {
            return entry.second.state == PartState::Asked && !is_lost(state, entry.second, now);
        }));
}

// Training: the K-th update starts the grace; final evaluation: the latest answer does.
std::optional<Timestamp> deadline(const JobState& state) {
    const bool training = state.phase == Phase::Training;
    std::vector<Timestamp> times;
    for (const auto& [client, part] : state.parts) {
        const bool answered = part.state == (training ? PartState::Accepted : PartState::Evaluated);
        if (answered && part.settled) times.push_back(*part.settled);
    }
    const std::size_t enough =
        training ? state.rules.clients_minimum : std::max<std::size_t>(1, times.size());
    if (times.size() < enough || enough == 0) return std::nullopt;
    std::sort(times.begin(), times.end());
    const Timestamp last = times[enough - 1];
    Duration grace = std::max(kGraceMin, elapsed_at(state, last));
    // After a restart the time worked before it is known only in part, and the missing ones have to come
    // back.
    if (state.recovered) grace = std::max({grace, state.last_round, patience(state)});
    return std::max(last, state.clock) + grace;
}

bool may_close(const JobState& state, Timestamp now) {
    const std::size_t accepted = count(state, PartState::Accepted);
    if (accepted < state.rules.clients_minimum) return false;
    if (accepted >= state.rules.clients_per_round || count(state, PartState::Asked) == 0) return true;
    const auto limit = deadline(state);
    return limit && now >= *limit;
}

bool may_finish(const JobState& state, Timestamp now) {
    if (const auto limit = deadline(state); limit && now >= *limit) return true;
    if (count_expected(state, now) > 0 || !state.busy.empty()) return false;
    // Everybody asked has answered or is lost. Right after a restart, or when nobody is there, others get a
    // moment.
    const bool may_still_come = state.recovered || state.parts.empty();
    return !may_still_come || now >= state.clock + patience(state);
}

std::optional<Timestamp> next_wake(const JobState& state, Timestamp now) {
    if (state.paused) return std::nullopt;
    std::vector<Timestamp> times;
    if (state.phase == Phase::Waiting && state.enough_since)
        times.push_back(*state.enough_since + patience(state));
    if (state.phase == Phase::Training || state.phase == Phase::FinalEvaluation) {
        if (const auto limit = deadline(state)) times.push_back(*limit);
        for (const auto& [client, part] : state.parts) {
            if (part.left) times.push_back(*part.left + patience(state));
        }
    }
    if (state.phase == Phase::FinalEvaluation) times.push_back(state.clock + patience(state));
    std::optional<Timestamp> next;
    for (const Timestamp time : times) {
        if (time > now && (!next || time < *next)) next = time;
    }
    return next;
}

}  // namespace fedllm::server::round
