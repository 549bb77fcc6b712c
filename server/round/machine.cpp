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
    Step(JobState state, Timestamp now) : state_(std::move(state)), now_(now) {}

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
    void on(const ClientDeclined& event) {
        settle(event.client, event.round, PartState::Declined, store::PartStatus::Declined, event.reason,
               event.detail);
    }
    void on(const UploadAccepted& event);
    void on(const UploadRefused& event) {
        settle(event.client, event.round, PartState::Refused, store::PartStatus::Refused, event.reason,
               event.detail);
    }
    void on(const EvaluationArrived& event);
    void on(const RoundCommitted& event);
    void on(const AggregationFailed& event) {
        if (state_.phase == Phase::Aggregating) fail(event.cause);
    }
    void on(const Tick&) {}
    void on(const PauseRequested& event);
    void on(const ResumeRequested& event);
    void on(const StopRequested& event);

    void advance();
    Transition finish() &&;

private:
    bool is_asking() const {
        return state_.phase == Phase::Training || state_.phase == Phase::FinalEvaluation;
    }
    TaskKind kind() const { return state_.phase == Phase::Training ? TaskKind::Train : TaskKind::Evaluate; }
    Part* asked_part(const ClientId& client, RoundId round);
    std::vector<ClientId> unasked() const;
    std::string purpose(const std::string& what) const {
        return what + "/" + std::to_string(state_.round.get());
    }

    void settle(const ClientId& client, RoundId round, PartState state, store::PartStatus status,
                const std::string& reason, const std::string& detail);
    void open_when_enough();
    void open(Phase phase, const std::vector<ClientId>& clients);
    void ask(const ClientId& client);
    void ask_late(const ClientId& client);
    void replace_the_lost();
    void close();
    void finish_evaluation();
    void release_the_asked(const std::string& reason);
    void fail(const std::string& cause);

    JobState state_;
    Timestamp now_;
    std::vector<Effect> effects_;
};

// ---------------------------------------------------------------------------------------------- what is
// known

// The part of a client whose answer is still wanted; null otherwise.
Part* Step::asked_part(const ClientId& client, RoundId round) {
    if (!is_asking() || round != state_.round) return nullptr;
    const auto part = state_.parts.find(client);
    return part != state_.parts.end() && part->second.state == PartState::Asked ? &part->second : nullptr;
}

void Step::on(const ClientJoined& event) {
    const auto& models = event.base_models;
    if (std::find(models.begin(), models.end(), state_.rules.base_model) == models.end()) {
        on(ClientLeft{event.client});  // it may have been able to before
        return;
    }
    state_.busy.erase(event.client);
    state_.connected.insert(event.client);
    const auto part = state_.parts.find(event.client);
    if (!is_asking() || part == state_.parts.end()) return;
    if (part->second.state == PartState::Declined) {
        state_.parts.erase(part);  // it was started again, perhaps with another policy: it may be asked again
    } else if (part->second.state == PartState::Asked) {
        part->second.left.reset();
        if (!state_.paused) ask(event.client);
    }
}

void Step::on(const ClientLeft& event) {
    state_.connected.erase(event.client);
    state_.busy.erase(event.client);
    if (Part* part = asked_part(event.client, state_.round); part && !part->left) part->left = now_;
}

void Step::settle(const ClientId& client, RoundId round, PartState state, store::PartStatus status,
                  const std::string& reason, const std::string& detail) {
    Part* part = asked_part(client, round);
    if (!part) return;
    *part = Part{.state = state, .settled = now_, .left = {}};
    effects_.emplace_back(RecordPart{client, round, status, reason, detail});
}

void Step::on(const UploadAccepted& event) {
    Part* part = asked_part(event.client, event.round);
    if (part && state_.phase == Phase::Training) {
        *part = Part{.state = PartState::Accepted, .settled = now_, .left = {}};
    }
}

void Step::on(const EvaluationArrived& event) {
    Part* part = asked_part(event.client, event.round);
    if (!part || state_.phase != Phase::FinalEvaluation) return;
    *part = Part{.state = PartState::Evaluated, .settled = now_, .left = {}};
    effects_.emplace_back(RecordEvaluation{event.client, event.round, event.loss_sum, event.tokens});
}

void Step::on(const RoundCommitted& event) {
    if (state_.phase != Phase::Aggregating || event.round != state_.round) return;
    state_.last_round = elapsed_at(state_, now_);
    state_.round = RoundId(state_.round.get() + 1);
    state_.model_digest = event.digest;
    state_.parts.clear();
    state_.enough_since.reset();
    state_.recovered = false;
    state_.phase = Phase::Waiting;
}

void Step::on(const PauseRequested& event) {
    if (is_over(state_) || state_.paused) return;
    effects_.emplace_back(PauseJob{event.cause});
    release_the_asked("the job was paused: " + event.cause);
    state_.paused = Pause{now_, event.cause};
}

// The clocks go on from where the pause stopped them; who is away has its patience anew.
void Step::on(const ResumeRequested&) {
    if (!state_.paused) return;
    state_.worked = elapsed_at(state_, now_);
    state_.clock = now_;
    state_.paused.reset();
    state_.enough_since.reset();
    effects_.emplace_back(ResumeJob{});
    if (!is_asking()) return;
    for (auto& [client, part] : state_.parts) {
        if (part.state != PartState::Asked) continue;
        if (state_.connected.contains(client)) {
            ask(client);
        } else {
            part.left = now_;
        }
    }
}

void Step::on(const StopRequested& event) {
    if (is_over(state_)) return;
    release_the_asked(event.cause);
    state_.phase = Phase::Stopped;
    state_.paused.reset();
    state_.cause = event.cause;
    effects_.emplace_back(StopJob{event.cause});
}

// ------------------------------------------------------------------------------------------------
// conclusions

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
    if (state_.phase == Phase::Training) {
        replace_the_lost();
        if (may_close(state_, now_)) close();
    }
    if (state_.phase == Phase::FinalEvaluation) {
        for (const ClientId& client : unasked()) ask_late(client);
        if (may_finish(state_, now_)) finish_evaluation();
    }
}

Transition Step::finish() && {
    if (const auto when = next_wake(state_, now_)) effects_.emplace_back(WakeAt{*when});
    return {std::move(state_), std::move(effects_)};
}

void Step::open_when_enough() {
    const std::size_t there = state_.connected.size();
    if (there < state_.rules.clients_minimum) {
        state_.enough_since.reset();
        return;
    }
    if (!state_.enough_since) state_.enough_since = now_;
    const bool waited = now_ >= *state_.enough_since + patience(state_);
    if (there < state_.rules.clients_per_round && !waited) return;
    open(Phase::Training, draw({state_.connected.begin(), state_.connected.end()},
                               state_.rules.clients_per_round, state_.rules.seed, purpose("select")));
}

void Step::open(Phase phase, const std::vector<ClientId>& clients) {
    if (phase == Phase::Training) state_.recovered = false;
    state_.phase = phase;
    state_.opened = now_;
    state_.clock = now_;
    state_.worked = Duration{};
    state_.enough_since.reset();
    for (const ClientId& client : clients) state_.parts[client] = Part{};
    effects_.emplace_back(OpenRound{state_.round, kind(), clients, state_.model_digest});
    for (const ClientId& client : clients) ask(client);
}

void Step::ask(const ClientId& client) {
    effects_.emplace_back(AskClient{client, state_.round, kind(), state_.model_digest});
}

// Asked after the round was opened: the ledger does not know of it yet.
void Step::ask_late(const ClientId& client) {
    state_.parts[client] = Part{};
    effects_.emplace_back(RecordPart{client, state_.round, store::PartStatus::Asked, "", ""});
    ask(client);
}

std::vector<ClientId> Step::unasked() const {
    std::vector<ClientId> clients;
    for (const ClientId& client : state_.connected) {
        if (!state_.parts.contains(client)) clients.push_back(client);
    }
    return clients;
}

void Step::replace_the_lost() {
    const std::size_t needed = state_.rules.clients_minimum;
    const std::size_t possible = count(state_, PartState::Accepted) + count_expected(state_, now_);
    if (possible >= needed) return;
    const std::string purpose_now = purpose("replace") + "/" + std::to_string(state_.parts.size());
    for (const ClientId& client : draw(unasked(), needed - possible, state_.rules.seed, purpose_now)) {
        ask_late(client);
    }
}

void Step::close() {
    CloseRound close{state_.round, {}};
    for (const auto& [client, part] : state_.parts) {
        if (part.state == PartState::Accepted) close.accepted.push_back(client);
    }
    effects_.emplace_back(std::move(close));
    release_the_asked("round " + std::to_string(state_.round.get()) + " closed without this update");
    state_.phase = Phase::Aggregating;
    state_.closing = false;
}

void Step::finish_evaluation() {
    release_the_asked("the job is finished");
    effects_.emplace_back(FinishJob{state_.round});
    state_.phase = Phase::Finished;
}

void Step::release_the_asked(const std::string& reason) {
    if (!is_asking() || state_.paused) return;
    for (const auto& [client, part] : state_.parts) {
        if (part.state == PartState::Asked && state_.connected.contains(client)) {
            effects_.emplace_back(Release{client, state_.round, reason});
        }
    }
}

void Step::fail(const std::string& cause) {
    state_.phase = Phase::Failed;
    state_.paused.reset();
    state_.cause = cause;
    effects_.emplace_back(FailJob{cause});
}

}  // namespace

// --------------------------------------------------------------------------------------------------
// interface

Rules rules_of(const JobId& job, const job::JobSpec& spec) {
    return {job, spec.base_model, spec.seed, spec.rounds, spec.clients_per_round, spec.clients_minimum};
}

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
    if (state.phase != Phase::Training && state.phase != Phase::FinalEvaluation) return false;
    const auto part = state.parts.find(client);
    return part != state.parts.end() && part->second.state == PartState::Asked;
}

std::optional<ClientId> client_of(const Event& event) {
    return std::visit(
        [](const auto& happened) -> std::optional<ClientId> {
            if constexpr (requires { happened.client; }) return happened.client;
            return std::nullopt;
        },
        event);
}

Result<void> admits(const JobState& state, RoundId round, const ClientId& client) {
    const std::string what = "round " + std::to_string(round.get()) + " of job " + state.rules.job.get();
    if (round != state.round) {
        return make_error(Errc::Stale,
                          what + " is not open; the job is at round " + std::to_string(state.round.get()));
    }
    const auto part = state.parts.find(client);
    if (part != state.parts.end() && part->second.state == PartState::Accepted) {
        return make_error(Errc::Duplicate, what + ": an update of " + client.get() + " is counted already");
    }
    if (state.phase != Phase::Training) return make_error(Errc::Stale, what + " takes no more updates");
    if (count(state, PartState::Accepted) >= state.rules.clients_per_round) {
        return make_error(Errc::Stale, what + " has all updates that it counts");  // a pause keeps it open
    }
    if (part == state.parts.end() || part->second.state != PartState::Asked) {
        return make_error(Errc::Stale, what + ": no update of " + client.get() + " is expected");
    }
    return {};
}

}  // namespace fedllm::server::round
