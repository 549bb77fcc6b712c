// What events make known.
#include <algorithm>

#include "server/round/step.hpp"

namespace fedllm::server::round {

// A part whose answer is still wanted.
std::optional<Part> Step::asked_part(const PartKey& key) const {
    const Part* const part = state_.parts.find(key);
    if (part == nullptr || part->state != PartState::Asked || is_over(state_)) return std::nullopt;
    return *part;
}

std::vector<PartKey> Step::all_asked() const {
    std::vector<PartKey> keys;
    for (const auto& [key, part] : state_.parts) {
        if (part.state == PartState::Asked) keys.push_back(key);
    }
    return keys;
}

void Step::enter(Phase phase) {
    state_.phase = phase;
    state_.since = state_.worked;
}

// Who is asked has to be looked at again when it would be missing.
void Step::watch(const PartKey& key, const Part& part) {
    state_.next_look = std::min(state_.next_look, missing_from(state_, key.client, part));
}

void Step::on(const ClientJoined& event) {
    const auto& models = event.base_models;
    if (std::find(models.begin(), models.end(), state_.rules.base_model) == models.end()) {
        on(ClientLeft{event.client});  // it may have been able to before
        return;
    }
    state_.busy.erase(event.client);
    state_.connected.insert(event.client);
    if (is_over(state_)) return;
    if (const auto key = state_.parts.task_of(event.client)) {
        Part part = *state_.parts.find(*key);
        if (part.left && !state_.recovered) state_.history.returned(event.client, state_.worked - *part.left);
        part.left.reset();
        part.alive = state_.worked;
        part.missing = false;
        state_.parts.put(*key, part);
        watch(*key, part);
        if (!state_.paused) ask(*key);
        return;
    }
    // It was started again, perhaps with another policy: it may be asked again.
    const Part* const part = state_.parts.find({state_.round, event.client});
    if (part != nullptr && part->state == PartState::Declined)
        state_.parts.erase({state_.round, event.client});
}

void Step::on(const ClientLeft& event) {
    state_.connected.erase(event.client);
    state_.busy.erase(event.client);
    const auto key = state_.parts.task_of(event.client);
    if (!key) return;
    Part part = *state_.parts.find(*key);
    if (part.left) return;
    part.left = state_.worked;
    state_.parts.put(*key, part);
    watch(*key, part);
}

// It may have been asked before a pause during which another job had it.
void Step::on(const ClientFree& event) {
    state_.busy.erase(event.client);
    state_.connected.insert(event.client);
    const auto key = state_.parts.task_of(event.client);
    if (!key || state_.paused || is_over(state_)) return;
    on(SignOfLife{event.client});
    ask(*key);
}

void Step::on(const SignOfLife& event) {
    const auto key = state_.parts.task_of(event.client);
    if (!key || !state_.connected.contains(event.client)) return;
    Part part = *state_.parts.find(*key);
    part.alive = state_.worked;
    part.missing = false;
    state_.parts.put(*key, part);
    watch(*key, part);
}

void Step::answered(const PartKey& key, Part part, PartState state) {
    part.state = state;
    part.settled = state_.worked;
    part.left.reset();
    part.missing = false;
    state_.parts.put(key, part);
}

void Step::settle(const PartKey& key, PartState state, store::PartStatus status, const std::string& reason,
                  const std::string& detail) {
    const auto part = asked_part(key);
    if (!part) return;
    answered(key, *part, state);
    if (key.round != state_.round)
        state_.parts.erase(key);  // an older version's: it keeps nobody from the newest
    effects_.emplace_back(RecordPart{key.client, key.round, status, reason, detail});
}

void Step::on(const UploadAccepted& event) {
    const PartKey key{event.round, event.client};
    const auto part = asked_part(key);
    if (!part || state_.phase != Phase::Training) return;
    answered(key, *part, PartState::Accepted);
    state_.last_accepted = state_.worked;
    if (!asynchronous()) state_.history.accepted(event.round, event.client, state_.worked - part->asked);
}

void Step::on(const EvaluationArrived& event) {
    const PartKey key{event.round, event.client};
    const auto part = asked_part(key);
    if (!part || state_.phase != Phase::FinalEvaluation) return;
    answered(key, *part, PartState::Evaluated);
    effects_.emplace_back(RecordEvaluation{event.client, event.round, event.loss_sum, event.tokens});
}

void Step::on(const RoundCommitted& event) {
    if (state_.phase != Phase::Aggregating || event.round != state_.round) return;
    state_.last_round = state_.worked - state_.opened;
    state_.round = RoundId(state_.round.get() + 1);
    state_.model_digest = event.digest;
    Parts at_work;
    for (const auto& [key, part] : state_.parts) {
        if (part.state == PartState::Asked) at_work.put(key, part);
    }
    state_.parts = std::move(at_work);
    state_.enough_since.reset();
    state_.recovered.reset();
    enter(Phase::Waiting);
}

void Step::on(const AggregationFailed& event) {
    if (state_.phase != Phase::Aggregating) return;
    release_all("the job failed");
    enter(Phase::Failed);
    state_.paused.reset();
    state_.cause = event.cause;
    effects_.emplace_back(FailJob{event.cause});
}

void Step::on(const PauseRequested& event) {
    if (is_over(state_) || state_.paused) return;
    effects_.emplace_back(PauseJob{event.cause});
    release_all("the job was paused: " + event.cause);
    state_.paused = Pause{state_.clock, event.cause};
}

void Step::on(const ResumeRequested&) {
    if (!state_.paused) return;
    state_.paused.reset();
    state_.enough_since.reset();
    effects_.emplace_back(ResumeJob{});
    for (const PartKey& key : all_asked()) {
        if (state_.connected.contains(key.client)) ask(key);
    }
}

void Step::on(const StopRequested& event) {
    if (is_over(state_)) return;
    release_all(event.cause);
    enter(Phase::Stopped);
    state_.paused.reset();
    state_.cause = event.cause;
    effects_.emplace_back(StopJob{event.cause});
}

}  // namespace fedllm::server::round
