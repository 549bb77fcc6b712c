// One step of the machine in the making. Private to server/round.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/round/machine.hpp"
#include "server/round/timing.hpp"

namespace fedllm::server::round {

// One step in the making: an on() per event writes down what is now known, advance() draws the conclusions.
class Step {
public:
    Step(JobState state, Timestamp now) : state_(std::move(state)) {
        state_.worked = working_time(state_, now);
        state_.clock = now;
    }

    void on(const ClientJoined& event);
    void on(const ClientLeft& event);
    void on(const ClientBusy& event);
    void on(const ClientFree& event);
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
    void on(const VersionDelivered& event) { state_.delivered = event.round.get() >= state_.rules.rounds; }
    void on(const AggregationFailed& event);
    void on(const Tick&) {}
    void on(const PauseRequested& event);
    void on(const ResumeRequested& event);
    void on(const StopRequested& event);

    void advance(const std::optional<ClientId>& concerned);  // by the event
    Transition finish() &&;

private:
    bool asynchronous() const { return state_.rules.asynchronous; }
    bool is_last_round() const { return state_.round.get() + 1 >= state_.rules.rounds; }
    TaskKind kind() const {
        return state_.phase == Phase::FinalEvaluation ? TaskKind::Evaluate : TaskKind::Train;
    }
    std::optional<Part> asked_part(const PartKey& key) const;
    std::vector<PartKey> all_asked() const;
    bool is_unasked(const ClientId& client) const;
    void look_at(const ClientId& client);
    void ask_to_evaluate(const std::optional<ClientId>& concerned);
    std::string purpose(const std::string& what) const {
        return what + "/" + std::to_string(state_.round.get());
    }

    void watch(const PartKey& key, const Part& part);
    void put(const PartKey& key, const Part& part);
    void erase(const PartKey& key);
    void enter(Phase phase);
    void answered(const PartKey& key, Part part, PartState state);
    void settle(const PartKey& key, PartState state, store::PartStatus status, const std::string& reason,
                const std::string& detail);
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

}  // namespace fedllm::server::round
