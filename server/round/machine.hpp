// One job, round by round, as a pure function: step(state, event, now) -> {state, effects}. No socket, clock,
// thread or randomness inside; whoever calls it carries out the effects in order and reports what happened as
// events.
//
//   Waiting --enough clients--> Training --enough updates--> Aggregating --committed--> Waiting ...
//      --all rounds done--> FinalEvaluation --answers--> Finished      any --> Failed or Stopped
//
// Time limits follow from what was observed, there are none to tune:
//
// - A round opens when N clients are there, or when K are and nobody else came for a while (patience).
// - It closes when everybody asked has settled and K updates are in, when N are in, or when the missing ones
// had,
//   after the K-th, as long again as the K-th took (at least 2 s): nobody is waited for longer than twice
//   that.
// - A client that left stays asked: it may resume. Only when those left cannot make up K, and patience has
//   passed, others are asked in its place. When that is impossible too, the job waits; it does not fail.
// - A paused job asks nobody and closes nothing; what is accepted stays counted, and the time does not count.
// - Patience is 10 s, or a tenth of the last round's duration if that is longer.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/ids.hpp"
#include "common/base/result.hpp"
#include "common/job/job_spec.hpp"
#include "server/store/rows.hpp"

namespace fedllm::server::round {

struct Rules {
    JobId job;
    std::string base_model;
    std::uint64_t seed = 0;
    std::uint32_t rounds = 0;
    std::uint32_t clients_per_round = 0;  // N
    std::uint32_t clients_minimum = 0;    // K
    bool operator==(const Rules&) const = default;
};
Rules rules_of(const JobId& job, const job::JobSpec& spec);

enum class Phase { Waiting, Training, Aggregating, FinalEvaluation, Finished, Failed, Stopped };
std::string_view name(Phase phase);

enum class PartState { Asked, Accepted, Refused, Declined, Evaluated };

struct Part {
    PartState state = PartState::Asked;
    std::optional<Timestamp> settled;  // when it was accepted or evaluated
    std::optional<Timestamp> left;     // since when an asked client is away
    bool operator==(const Part&) const = default;
};

struct Pause {
    Timestamp since{};
    std::string cause;
    bool operator==(const Pause&) const = default;
};

struct JobState {
    Rules rules;
    Phase phase = Phase::Waiting;
    RoundId round;  // committed so far; == rules.rounds in the final evaluation
    std::string model_digest;
    std::set<ClientId> connected;           // those that can train the base model, and are free to
    std::set<ClientId> busy;                // the same, while another job's task holds them
    std::map<ClientId, Part> parts;         // of the open round
    std::optional<Timestamp> enough_since;  // Waiting: since when K clients are there
    Timestamp opened{};                     // of the open round
    Timestamp clock{};       // the time that `worked` is counted on from: opened, or the recovery
    Duration worked{};       // before a restart, as far as it is known
    bool recovered = false;  // the open round has lived through a restart
    bool closing = false;    // and its set was fixed before: it closes again, with the same updates
    Duration last_round{};   // how long the last committed round took
    std::string cause;       // of Failed and Stopped
    std::optional<Pause> paused;
    bool operator==(const JobState&) const = default;
};

bool is_over(const JobState& state);  // Finished, Failed or Stopped

JobState start(const Rules& rules, const std::string& model_digest);

// -------------------------------------------------------------------------------------------------------
// events

struct ClientJoined {  // also when it comes back, or a newer connection replaces an older one
    ClientId client;
    std::vector<std::string> base_models;
};
struct ClientLeft {
    ClientId client;
};
// Another job's task holds it, until ClientFree: it is connected and can train the base model, but not asked.
struct ClientBusy {
    ClientId client;
};
struct ClientFree {
    ClientId client;
};
struct ClientDeclined {
    ClientId client;
    RoundId round;
    std::string reason;
    std::string detail;
};
struct UploadAccepted {  // after Ledger::accept said Counted
    ClientId client;
    RoundId round;
};
struct UploadRefused {
    ClientId client;
    RoundId round;
    std::string reason;
    std::string detail;
};
struct EvaluationArrived {  // the answer to an evaluation task
    ClientId client;
    RoundId round;
    double loss_sum = 0;
    std::uint64_t tokens = 0;
};
struct RoundCommitted {  // the answer to CloseRound
    RoundId round;
    std::string digest;
};
struct AggregationFailed {
    std::string cause;
};
struct Tick {};  // time has passed; also the first event after start() and recover()
struct PauseRequested {
    std::string cause;
};
struct ResumeRequested {};
struct StopRequested {
    std::string cause;
};
using Event = std::variant<ClientJoined, ClientLeft, ClientBusy, ClientFree, ClientDeclined, UploadAccepted,
                           UploadRefused, EvaluationArrived, RoundCommitted, AggregationFailed, Tick,
                           PauseRequested, ResumeRequested, StopRequested>;

// ------------------------------------------------------------------------------------------------------
// effects

enum class TaskKind { Train, Evaluate };

struct OpenRound {  // Ledger::open_round; before the tasks go out
    RoundId round;
    TaskKind kind = TaskKind::Train;
    std::vector<ClientId> clients;
    std::string model_digest;
};
struct AskClient {  // send the Task; again after a reconnection
    ClientId client;
    RoundId round;
    TaskKind kind = TaskKind::Train;
    std::string model_digest;
};
struct RecordPart {  // Ledger::record_part: asked in another's place, refused or declined
    ClientId client;
    RoundId round;
    store::PartStatus status = store::PartStatus::Asked;
    std::string reason;
    std::string detail;
};
struct RecordEvaluation {  // Ledger::record_evaluation
    ClientId client;
    RoundId round;
    double loss_sum = 0;
    std::uint64_t tokens = 0;
};
struct Release {  // tell the client to stop working on its task
    ClientId client;
    RoundId round;
    std::string reason;
};
struct CloseRound {  // Ledger::close_round, then mean, version, commit_round, then the event RoundCommitted
    RoundId round;
    std::vector<ClientId> accepted;  // sorted by name
};
struct FinishJob {  // Ledger::finish_job, closing round `round`, the final evaluation
    RoundId round;
};
struct FailJob {
    std::string cause;
};
struct StopJob {
    std::string cause;
};
struct PauseJob {
    std::string cause;
};
struct ResumeJob {};  // before its clients are asked again
struct WakeAt {       // a Tick no later than this; replaces earlier ones
    Timestamp when;
};
using Effect = std::variant<OpenRound, AskClient, RecordPart, RecordEvaluation, Release, CloseRound,
                            FinishJob, FailJob, StopJob, PauseJob, ResumeJob, WakeAt>;

struct Transition {
    JobState state;
    std::vector<Effect> effects;
};

Transition step(JobState state, const Event& event, Timestamp now);

// Whether an update of this client for this round would be counted now: ask on the same strand, right before
// Ledger::accept. Duplicate: it is counted already (the ledger knows with which digest). Stale: it never will
// be.
Result<void> admits(const JobState& state, RoundId round, const ClientId& client);

bool is_over(const JobState& state);                           // Finished or Failed
bool is_asked(const JobState& state, const ClientId& client);  // its answer is still wanted
std::optional<ClientId> client_of(const Event& event);         // whom it is about

// The state after a restart. `rounds` are all of the job's, `parts` those of the last of them. Nobody is
// connected yet; follow it with a Tick, then with ClientJoined for whoever returns.
JobState recover(const Rules& rules, const store::JobRow& job, const std::vector<store::RoundRow>& rounds,
                 const std::vector<store::PartRow>& parts, Timestamp now);

// One plain sentence, without full stop, for `job show` and the log: "site-b and site-c to send their updates
// (1 of at least 2 is in)".
std::string waiting_for(const JobState& state, Timestamp now);

}  // namespace fedllm::server::round
