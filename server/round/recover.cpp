#include <algorithm>

#include "server/round/machine.hpp"
#include "server/round/timing.hpp"

namespace fedllm::server::round {
namespace {

PartState state_of(store::PartStatus status) {
    switch (status) {
        case store::PartStatus::Asked: return PartState::Asked;
        case store::PartStatus::Accepted: return PartState::Accepted;
        case store::PartStatus::Evaluated: return PartState::Evaluated;
        case store::PartStatus::Refused: return PartState::Refused;
        case store::PartStatus::Declined: return PartState::Declined;
        case store::PartStatus::Dropped: return PartState::Dropped;
    }
    return PartState::Dropped;
}

// Whether a row still says something about the open round: what it counts, or who works for it.
bool matters(const JobState& state, const store::PartRow& row) {
    const bool of_this_round = row.round == state.round;
    if (!state.rules.asynchronous) return of_this_round && row.status != store::PartStatus::Dropped;
    if (row.status == store::PartStatus::Asked) return true;
    if (row.status == store::PartStatus::Accepted) return row.counted == state.round;
    return of_this_round && row.status != store::PartStatus::Dropped;
}

// The working time begins again with 0 at the last sign of life before the restart; nobody is held to what
// passed since.
class Clock {
public:
    Clock(const std::vector<store::RoundRow>& rounds, const std::vector<store::PartRow>& parts) {
        for (const store::RoundRow& round : rounds) {
            opened_[round.round] = round.opened;
            zero_ = std::max({zero_, round.opened, round.closed.value_or(round.opened)});
        }
        for (const store::PartRow& part : parts) zero_ = std::max(zero_, part.accepted.value_or(zero_));
    }
    Duration of(Timestamp time) const { return std::min(Duration{}, time - zero_); }
    Duration opening_of(RoundId round) const {
        const auto opened = opened_.find(round);
        return opened != opened_.end() ? of(opened->second) : Duration{};
    }

private:
    std::map<RoundId, Timestamp> opened_;
    Timestamp zero_{};
};

Part part_of(const store::PartRow& row, const Clock& clock) {
    Part part{.state = state_of(row.status), .asked = clock.opening_of(row.round), .left = {}};
    if (row.accepted) {
        part.settled = clock.of(*row.accepted);
        part.asked = part.settled - row.elapsed;
    }
    if (part.state == PartState::Asked) part.left = Duration{};  // nobody is connected yet
    return part;
}

void take_up_parts(JobState& state, const std::vector<store::PartRow>& parts, const Clock& clock) {
    for (const store::PartRow& row : parts) {
        if (!matters(state, row)) continue;
        const Part part = part_of(row, clock);
        state.parts.put({row.round, row.client}, part);
        if (part.state == PartState::Accepted)
            state.last_accepted = std::max(state.last_accepted, part.settled);
        if (part.state == PartState::Asked) state.next_look = Duration{};
    }
}

bool gave_nothing(const store::PartRow& row) {
    return row.status == store::PartStatus::Refused || row.status == store::PartStatus::Declined ||
           (row.status == store::PartStatus::Dropped && row.reason == kLost);
}

History read_history(const std::vector<store::RoundRow>& rounds, const std::vector<store::PartRow>& parts) {
    History history;
    for (const store::RoundRow& round : rounds) {
        std::size_t asked = 0, nothing = 0;
        for (const store::PartRow& row : parts) {
            if (row.round != round.round) continue;
            ++asked;
            nothing += gave_nothing(row);
            if (row.status == store::PartStatus::Accepted)
                history.accepted(row.round, row.client, row.elapsed);
        }
        const bool over = round.status != store::RoundStatus::Open;
        if (over && asked > 0) history.closed(round.round, asked, nothing);
    }
    return history;
}

}  // namespace

RoundId first_needed(const Rules& rules, RoundId round) {
    const std::uint32_t back = rules.asynchronous ? rules.staleness_max + 1 : kRememberedRounds;
    return RoundId(round.get() - std::min(back, round.get()));
}

JobState recover(const Rules& rules, const store::JobRow& job, const std::vector<store::RoundRow>& rounds,
                 const std::vector<store::PartRow>& parts, Timestamp now) {
    JobState state = start(rules, job.model_digest);
    state.round = job.round;
    state.clock = now;
    state.recovered = Duration{};
    if (!rules.asynchronous) state.history = read_history(rounds, parts);
    for (const store::RoundRow& round : rounds) {
        if (round.closed) state.last_round = std::max(Duration{}, *round.closed - round.opened);
    }
    if (job.status == store::JobStatus::Finished) {
        state.phase = Phase::Finished;
        return state;
    }
    if (job.status == store::JobStatus::Failed || job.status == store::JobStatus::Stopped) {
        state.phase = job.status == store::JobStatus::Failed ? Phase::Failed : Phase::Stopped;
        state.cause = job.detail;
        return state;
    }
    if (job.status == store::JobStatus::Paused) state.paused = Pause{now, job.detail};
    const Clock clock(rounds, parts);
    take_up_parts(state, parts, clock);
    const bool open = !rounds.empty() && rounds.back().round == job.round &&
                      rounds.back().status != store::RoundStatus::Committed;
    if (open) {  // a round that was closing comes back as Training: the first Tick closes it again
        state.phase = state.round.get() < rules.rounds ? Phase::Training : Phase::FinalEvaluation;
        state.closing = rounds.back().status == store::RoundStatus::Closing;
        state.opened = clock.opening_of(rounds.back().round);
        state.since = state.opened;
    }
    keep_last_moments(state);
    return state;
}

}  // namespace fedllm::server::round
