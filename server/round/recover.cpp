#include <algorithm>

#include "server/round/machine.hpp"

namespace fedllm::server::round {
namespace {

// Dropped parts belong to a round that is closing: they are over, like those of clients never asked.
std::optional<Part> part_of(const store::PartRow& row, Timestamp now) {
    switch (row.status) {
        case store::PartStatus::Asked: return Part{.state = PartState::Asked, .settled = {}, .left = now};
        case store::PartStatus::Accepted:
            return Part{.state = PartState::Accepted, .settled = row.accepted, .left = {}};
        case store::PartStatus::Evaluated:
            return Part{.state = PartState::Evaluated, .settled = row.accepted, .left = {}};
        case store::PartStatus::Refused: return Part{.state = PartState::Refused, .settled = {}, .left = {}};
        case store::PartStatus::Declined:
            return Part{.state = PartState::Declined, .settled = {}, .left = {}};
        case store::PartStatus::Dropped: return std::nullopt;
    }
    return std::nullopt;
}

// A round that was closing comes back as Training; the first Tick closes it again, with the same updates.
void reopen(JobState& state, const store::RoundRow& round, const std::vector<store::PartRow>& parts,
            Timestamp now) {
    state.phase = state.round.get() < state.rules.rounds ? Phase::Training : Phase::FinalEvaluation;
    state.closing = round.status == store::RoundStatus::Closing;
    state.opened = round.opened;
    Timestamp last_sign = round.opened;  // of life before the restart
    for (const store::PartRow& row : parts) {
        if (row.round != round.round) continue;
        if (const auto part = part_of(row, now)) state.parts[row.client] = *part;
        if (row.accepted) last_sign = std::max(last_sign, *row.accepted);
    }
    state.worked = last_sign - round.opened;
}

}  // namespace

JobState recover(const Rules& rules, const store::JobRow& job, const std::vector<store::RoundRow>& rounds,
                 const std::vector<store::PartRow>& parts, Timestamp now) {
    JobState state = start(rules, job.model_digest);
    state.round = job.round;
    state.recovered = true;
    state.opened = now;
    state.clock = now;
    for (const store::RoundRow& round : rounds) {
        if (round.closed) state.last_round = std::max(Duration{}, *round.closed - round.opened);
    }
    if (job.status == store::JobStatus::Finished) {
        state.phase = Phase::Finished;
    } else if (job.status == store::JobStatus::Failed || job.status == store::JobStatus::Stopped) {
        state.phase = job.status == store::JobStatus::Failed ? Phase::Failed : Phase::Stopped;
        state.cause = job.detail;
    } else if (!rounds.empty() && rounds.back().round == job.round &&
               rounds.back().status != store::RoundStatus::Committed) {
        reopen(state, rounds.back(), parts, now);
    }
    if (job.status == store::JobStatus::Paused) state.paused = Pause{now, job.detail};
    return state;
}

}  // namespace fedllm::server::round
