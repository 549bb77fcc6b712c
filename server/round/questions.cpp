// What others ask of a state.
#include "server/round/machine.hpp"
#include "server/round/timing.hpp"

namespace fedllm::server::round {

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

bool is_asked(const JobState& state, const ClientId& client) {
    return !is_over(state) && !state.paused && state.parts.task_of(client).has_value();
}

bool is_answer(const Event& event) {
    return std::holds_alternative<UploadAccepted>(event) || std::holds_alternative<UploadRefused>(event) ||
           std::holds_alternative<ClientDeclined>(event) || std::holds_alternative<EvaluationArrived>(event);
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
