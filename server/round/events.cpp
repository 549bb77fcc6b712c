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
    for (const auto& [client, round] : state_.parts.asked()) keys.push_back({round, client});
    return keys;
}

// Nobody's task, and no part in the open round.
bool Step::is_unasked(const ClientId& client) const {
    return !state_.parts.find({state_.round, client}) && !state_.parts.task_of(client);
}

// After each change to whether it is there, or to its parts.
void Step::look_at(const ClientId& client) {
    const bool unasked = is_unasked(client);
    const auto keep = [&](std::set<ClientId>& those, const std::set<ClientId>& among) {
        if (unasked && among.contains(client)) {
            those.insert(client);
        } else {
            those.erase(client);
        }
    };
    keep(state_.unasked, state_.connected);
    keep(state_.unasked_busy, state_.busy);
}

// Who is asked has to be looked at again when it would be missing.
void Step::watch(const PartKey& key, const Part& part) {
    state_.next_look = std::min(state_.next_look, missing_from(state_, key.client, part));
}

void Step::put(const PartKey& key, const Part& part) {
    state_.parts.put(key, part);
    look_at(key.client);
    keep_last_moment(state_, key.client, part);
    if (part.state == PartState::Asked && !part.missing) watch(key, part);
}

void Step::erase(const PartKey& key) {
    state_.parts.erase(key);
    state_.last_moments.erase(key.client);
    look_at(key.client);
}

void Step::enter(Phase phase) {
    state_.phase = phase;
    state_.since = state_.worked;
}

void Step::on(const ClientJoined& event) {
    const auto& models = event.base_models;
    if (std::find(models.begin(), models.end(), state_.rules.base_model) == models.end()) {
        on(ClientLeft{event.client});  // it may have been able to before
        return;
    }
    state_.busy.erase(event.client);
    state_.connected.insert(event.client);
    look_at(event.client);
    if (is_over(state_)) return;
    if (const auto key = state_.parts.task_of(event.client)) {
        Part part = *state_.parts.find(*key);
        if (part.left && !state_.recovered) state_.history.returned(event.client, state_.worked - *part.left);
        part.left.reset();
        part.alive = state_.worked;
        part.missing = false;
        put(*key, part);
        if (!state_.paused) ask(*key);
        return;
    }
    // It was started again, perhaps with another policy: it may be asked again.
    const Part* const part = state_.parts.find({state_.round, event.client});
    if (part != nullptr && part->state == PartState::Declined) erase({state_.round, event.client});
}

void Step::on(const ClientLeft& event) {
    state_.connected.erase(event.client);
    state_.busy.erase(event.client);
    look_at(event.client);
    const auto key = state_.parts.task_of(event.client);
    if (!key) return;
    Part part = *state_.parts.find(*key);
    if (part.left) return;
    part.left = state_.worked;
    put(*key, part);
}

void Step::on(const ClientBusy& event) {
    state_.connected.erase(event.client);
    state_.busy.insert(event.client);
    look_at(event.client);
}

// It may have been asked before a pause during which another job had it.
void Step::on(const ClientFree& event) {
    state_.busy.erase(event.client);
    state_.connected.insert(event.client);
    look_at(event.client);
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
    put(*key, part);
}

void Step::answered(const PartKey& key, Part part, PartState state) {
    part.state = state;
    part.settled = state_.worked;
    part.left.reset();
    part.missing = false;
    put(key, part);
}

void Step::settle(const PartKey& key, PartState state, store::PartStatus status, const std::string& reason,
                  const std::string& detail) {
    const auto part = asked_part(key);
    if (!part) return;
    answered(key, *part, state);
    if (key.round != state_.round) erase(key);  // an older version's: it keeps nobody from the newest
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
    for (const auto* clients : {&state_.connected, &state_.busy}) {
        for (const ClientId& client : *clients) look_at(client);
    }
    state_.enough_since.reset();
    state_.recovered.reset();
    enter(Phase::Waiting);
}

void Step::on(const AggregationFailed& event) {
    if (state_.phase != Phase::Aggregating && state_.phase != Phase::FinalEvaluation) return;
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
