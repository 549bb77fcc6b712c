#include "server/round/machine.hpp"

#include <algorithm>
#include <utility>

#include "common/base/philox.hpp"
#include "server/round/timing.hpp"

namespace fedllm::server::round {
namespace {

// `count` of the names, drawn by a stream that the job's seed and the purpose fix; sorted.
std::vector<ClientId> draw(std::vector<ClientId> names, std::size_t count, std::uint64_t seed,
                           const std::string& purpose) {
    Rng rng(seed, purpose);
    count = std::min(count, names.size());
    for (std::size_t i = 0; i < count; ++i) std::swap(names[i], names[i + rng.below(names.size() - i)]);
    names.resize(count);
    std::sort(names.begin(), names.end());
    return names;
}

// One step in the making: an on() per event writes down what is now known, advance() draws the conclusions.
class Step {
public:
    Step(JobState state, Timestamp now) : state_(std::move(state)) {
        state_.worked = working_time(state_, now);
        state_.clock = now;
    }

    void on(const ClientJoined& event);
    void on(const ClientLeft& event);
    void on(const ClientBusy& event) {
        state_.connected.erase(event.client);
        state_.busy.insert(event.client);
    }
    void on(const ClientFree& event) {
        state_.busy.erase(event.client);
        state_.connected.insert(event.client);
    }
    void on(const SignOfLife& event);
    void on(const ClientDeclined& event) {
        settle({event.round, event.client}, PartState::Declined, store::PartStatus::Declined, event.reason,
               event.detail);
    }
    void on(const UploadAccepted& event);
    void on(const UploadRefused& event) {
        settle({event.round, event.client}, PartState::Refused, store::PartStatus::Refused, event.reason,
               event.detail);
    }
    void on(const EvaluationArrived& event);
    void on(const RoundCommitted& event);
    void on(const AggregationFailed& event);
    void on(const Tick&) {}
    void on(const PauseRequested& event);
    void on(const ResumeRequested& event);
    void on(const StopRequested& event);

    void advance();
    Transition finish() &&;

private:
    bool asynchronous() const { return state_.rules.asynchronous; }
    bool is_last_round() const { return state_.round.get() + 1 >= state_.rules.rounds; }
    TaskKind kind() const {
        return state_.phase == Phase::FinalEvaluation ? TaskKind::Evaluate : TaskKind::Train;
    }
    std::optional<Part> asked_part(const PartKey& key) const;
    std::vector<PartKey> all_asked() const;
    std::vector<ClientId> unasked() const;
    std::string purpose(const std::string& what) const {
        return what + "/" + std::to_string(state_.round.get());
    }

    void enter(Phase phase);
    void answered(const PartKey& key, Part part, PartState state);
    void settle(const PartKey& key, PartState state, store::PartStatus status, const std::string& reason,
                const std::string& detail);
    void watch(const PartKey& key, const Part& part);
    void notice_the_missing();
    void open_when_enough();
    void open(Phase phase, const std::vector<ClientId>& clients);
    void ask(const PartKey& key) { effects_.emplace_back(AskClient{key.client, key.round, kind()}); }
    void ask_late(const ClientId& client);
    void keep_all_busy();
    void replace_the_missing();
    void close();
    void drop_the_stale();
    void finish_evaluation();
    void release(const PartKey& key, const std::string& reason);
    void release_all(const std::string& reason);

    JobState state_;
    std::vector<Effect> effects_;
};

// ---------------------------------------------------------------------------------------- what is known

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

// ------------------------------------------------------------------------------------------ conclusions

void Step::advance() {
    if (state_.closing) close();
    if (state_.paused) return;
    if (state_.phase == Phase::Waiting) {
        if (state_.round.get() >= state_.rules.rounds) {
            open(Phase::FinalEvaluation, unasked());
        } else {
            open_when_enough();
        }
    }
    if (state_.worked >= state_.next_look) notice_the_missing();
    if (state_.phase == Phase::Training) {
        if (!asynchronous()) {
            replace_the_missing();
        } else if (state_.parts.count(PartState::Accepted) < goal(state_.rules)) {
            keep_all_busy();
        }
        if (may_close(state_)) close();
    }
    if (state_.phase == Phase::FinalEvaluation) {
        for (const ClientId& client : unasked()) ask_late(client);
        if (may_finish(state_)) finish_evaluation();
    }
}

Transition Step::finish() && {
    if (const auto when = next_wake(state_)) effects_.emplace_back(WakeAt{moment_of(state_, *when)});
    return {std::move(state_), std::move(effects_)};
}

void Step::notice_the_missing() {
    state_.next_look = Duration::max();
    for (const PartKey& key : all_asked()) {
        Part part = *state_.parts.find(key);
        if (part.missing) continue;
        if (state_.worked < missing_from(state_, key.client, part)) {
            watch(key, part);
        } else {
            part.missing = true;
            state_.parts.put(key, part);
        }
    }
}

// An asynchronous round needs nobody to open: those asked for older versions may be all it takes.
void Step::open_when_enough() {
    if (asynchronous()) {
        drop_the_stale();
        return open(Phase::Training, {});
    }
    const std::size_t there = state_.connected.size();
    if (there < state_.rules.clients_minimum) {
        state_.enough_since.reset();
        return;
    }
    if (!state_.enough_since) state_.enough_since = state_.worked;
    const bool waited = state_.worked >= *state_.enough_since + patience(state_);
    if (there < state_.rules.clients_per_round && !waited) return;
    open(Phase::Training,
         draw({state_.connected.begin(), state_.connected.end()},
              state_.history.to_ask(state_.rules.clients_per_round), state_.rules.seed, purpose("select")));
}

void Step::open(Phase phase, const std::vector<ClientId>& clients) {
    enter(phase);
    state_.opened = state_.worked;
    state_.enough_since.reset();
    if (phase == Phase::Training) state_.recovered.reset();
    effects_.emplace_back(OpenRound{state_.round, kind(), clients, state_.model_digest});
    for (const ClientId& client : clients) {
        const PartKey key{state_.round, client};
        const Part part{.asked = state_.worked, .alive = state_.worked, .left = {}};
        state_.parts.put(key, part);
        watch(key, part);
        ask(key);
    }
}

// Asked after the round was opened: the ledger does not know of it yet.
void Step::ask_late(const ClientId& client) {
    const PartKey key{state_.round, client};
    const Part part{.asked = state_.worked, .alive = state_.worked, .left = {}};
    state_.parts.put(key, part);
    watch(key, part);
    effects_.emplace_back(RecordPart{client, state_.round, store::PartStatus::Asked, "", ""});
    ask(key);
}

// Who is free, and has no part in the open round yet.
std::vector<ClientId> Step::unasked() const {
    std::vector<ClientId> clients;
    for (const ClientId& client : state_.connected) {
        if (!state_.parts.find({state_.round, client}) && !state_.parts.task_of(client))
            clients.push_back(client);
    }
    return clients;
}

void Step::keep_all_busy() {
    const std::size_t at_work = state_.parts.counted_on(), most = state_.rules.clients_per_round;
    if (at_work >= most) return;
    const std::string purpose_now = purpose("select") + "/" + std::to_string(state_.parts.size());
    for (const ClientId& client : draw(unasked(), most - at_work, state_.rules.seed, purpose_now)) {
        ask_late(client);
    }
}

void Step::replace_the_missing() {
    const std::size_t accepted = state_.parts.count(PartState::Accepted);
    const std::size_t possible = accepted + state_.parts.counted_on();
    const std::size_t wanted = state_.rules.clients_per_round;
    if (accepted >= state_.rules.clients_minimum || possible >= wanted) return;
    const std::string purpose_now = purpose("replace") + "/" + std::to_string(state_.parts.size());
    for (const ClientId& client : draw(unasked(), wanted - possible, state_.rules.seed, purpose_now)) {
        ask_late(client);
    }
}

void Step::close() {
    CloseRound close{state_.round, {}, {}};
    std::size_t gave_nothing = 0;
    for (const auto& [key, part] : state_.parts) {
        if (part.state == PartState::Accepted) close.accepted.push_back(key);
        gave_nothing += part.state == PartState::Refused || part.state == PartState::Declined || part.missing;
    }
    if (!asynchronous()) state_.history.closed(state_.round, state_.parts.size(), gave_nothing);
    if (!asynchronous() || is_last_round()) {
        for (const PartKey& key : all_asked()) {
            Part part = *state_.parts.find(key);
            close.dropped.push_back({key, std::string(part.missing ? kLost : kLate)});
            release(key, "round " + std::to_string(state_.round.get()) + " closed without this update");
            answered(key, part, PartState::Dropped);
        }
    }
    effects_.emplace_back(std::move(close));
    enter(Phase::Aggregating);
    state_.closing = false;
}

// Work that could not count any more ends here; who did it is free for the newest version.
void Step::drop_the_stale() {
    for (const PartKey& key : all_asked()) {
        if (state_.round.get() - key.round.get() <= state_.rules.staleness_max) continue;
        release(key, "the model has moved on too far from round " + std::to_string(key.round.get()));
        effects_.emplace_back(
            RecordPart{key.client, key.round, store::PartStatus::Dropped, std::string(kTooStale), ""});
        state_.parts.erase(key);
    }
}

void Step::finish_evaluation() {
    release_all("the job is finished");
    effects_.emplace_back(FinishJob{state_.round});
    enter(Phase::Finished);
}

void Step::release(const PartKey& key, const std::string& reason) {
    if (state_.paused || !state_.connected.contains(key.client)) return;
    effects_.emplace_back(Release{key.client, key.round, reason});
}

void Step::release_all(const std::string& reason) {
    for (const PartKey& key : all_asked()) release(key, reason);
}

}  // namespace

// ------------------------------------------------------------------------------------------- interface

Rules rules_of(const JobId& job, const job::JobSpec& spec) {
    return {.job = job,
            .base_model = spec.base_model,
            .seed = spec.seed,
            .rounds = spec.rounds,
            .clients_per_round = spec.clients_per_round,
            .clients_minimum = spec.clients_minimum,
            .asynchronous = spec.aggregation.mode == job::Mode::Async,
            .buffer = spec.aggregation.buffer,
            .staleness_max = spec.aggregation.staleness_max};
}

std::size_t goal(const Rules& rules) { return rules.asynchronous ? rules.buffer : rules.clients_per_round; }

JobState start(const Rules& rules, const std::string& model_digest) {
    JobState state;
    state.rules = rules;
    state.model_digest = model_digest;
    return state;
}

Transition step(JobState state, const Event& event, Timestamp now) {
    Step step(std::move(state), now);
    std::visit([&step](const auto& happened) { step.on(happened); }, event);
    step.advance();
    return std::move(step).finish();
}

bool is_asked(const JobState& state, const ClientId& client) {
    return !is_over(state) && state.parts.task_of(client).has_value();
}

std::optional<ClientId> client_of(const Event& event) {
    return std::visit(
        [](const auto& happened) -> std::optional<ClientId> {
            if constexpr (requires { happened.client; }) return happened.client;
            return std::nullopt;
        },
        event);
}

bool withholds(const JobState& state) {
    if (!state.rules.asynchronous || is_over(state) || state.phase == Phase::FinalEvaluation) return false;
    return state.phase != Phase::Training || state.parts.count(PartState::Accepted) >= goal(state.rules);
}

Result<RoundId> admits(const JobState& state, RoundId round, const ClientId& client) {
    const std::string what = "round " + std::to_string(round.get()) + " of job " + state.rules.job.get();
    const Part* const part = state.parts.find({round, client});
    if (part != nullptr && part->state == PartState::Accepted) {
        return make_error(Errc::Duplicate, what + ": an update of " + client.get() + " is counted already");
    }
    if (!state.rules.asynchronous && round != state.round) {
        return make_error(Errc::Stale,
                          what + " is not open; the job is at round " + std::to_string(state.round.get()));
    }
    const bool asked = part != nullptr && part->state == PartState::Asked;
    if (state.phase != Phase::Training) return make_error(Errc::Stale, what + " takes no more updates");
    if (state.parts.count(PartState::Accepted) >= goal(state.rules)) {
        return make_error(Errc::Stale, what + " has all updates that it counts");  // a pause keeps it open
    }
    if (!asked) {
        return make_error(Errc::Stale, what + ": no update of " + client.get() + " is expected");
    }
    return state.round;
}

Duration round_time(const JobState& state, Timestamp now) { return working_time(state, now) - state.opened; }

Duration time_taken(const JobState& state, RoundId round, const ClientId& client, Timestamp now) {
    const Part* const part = state.parts.find({round, client});
    return part != nullptr ? working_time(state, now) - part->asked : Duration{};
}

}  // namespace fedllm::server::round
