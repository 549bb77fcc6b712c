// One job, round by round, as a pure function: step(state, event, now) -> {state, effects}. No socket, clock,
// thread or randomness inside; whoever calls it carries out the effects in order and reports what happened as
// events.
//
//   Waiting --enough clients--> Training --enough updates--> Aggregating --committed--> Waiting ...
//      --all rounds done--> FinalEvaluation --answers, delivered--> Finished      any --> Failed or Stopped
//
// Time limits follow from what was observed, there are none to tune (timing.cpp, history.hpp):
//
// - A round opens when N clients are there, or when K are and nobody else came for a while (patience). It
// asks
//   more than N by the share that dropped out of the last rounds.
// - It closes when N updates are in, when K are and nobody else is at work, or when K are and the missing
// ones
//   are late: a client that was seen three times by its own usual time; another when it had, after the K-th,
//   as long again as the K-th took (at least 2 s).
// - A client that left stays asked: it may resume. It is counted on for as long as it usually stays away (2 s
//   if that is unknown); one that is connected, while it shows a sign of life each minute (its lease). Where
//   those counted on cannot make up N before K are in, others are asked in their place at once; whoever
//   answers first counts, at most N. When nobody else is there the job waits; it does not fail.
// - Patience is 10 s, or a tenth of the last round's duration if that is longer.
// - A paused job asks nobody and closes nothing; what is accepted stays counted, and the time does not count.
//
// An asynchronous job (FedBuff, arXiv 2106.06639) goes through the same phases, but its rounds overlap: up to
// N clients train at once, each from the version that was the newest when it was asked. Whatever comes in
// counts in the open round, which closes when the buffer is full, or when K are in and for the time of
// patience nobody is at work. Those still training keep their task, unless it becomes too stale: then they
// start again.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/ids.hpp"
#include "common/base/result.hpp"
#include "common/job/job_spec.hpp"
#include "server/round/history.hpp"
#include "server/round/last_moments.hpp"
#include "server/round/parts.hpp"
#include "server/store/rows.hpp"

namespace fedllm::server::round {

struct Rules {
    JobId job;
    std::string base_model;
    std::uint64_t seed = 0;
    std::uint32_t rounds = 0;
    std::uint32_t clients_per_round = 0;  // N
    std::uint32_t clients_minimum = 0;    // K
    bool asynchronous = false;
    std::uint32_t buffer = 0;         // asynchronous: updates per version
    std::uint32_t staleness_max = 0;  // asynchronous: in versions
    bool operator==(const Rules&) const = default;
};
Rules rules_of(const JobId& job, const job::JobSpec& spec);
std::size_t goal(const Rules& rules);  // the most updates that a version is made of

enum class Phase { Waiting, Training, Aggregating, FinalEvaluation, Finished, Failed, Stopped };
std::string_view name(Phase phase);

struct Pause {
    Timestamp since{};
    std::string cause;
    bool operator==(const Pause&) const = default;
};

// Times are the job's working time: it stands still while the server is down or the job paused, and never
// goes back. 0 is the job's start, or the last sign of life before a restart.
struct JobState {
    Rules rules;
    Phase phase = Phase::Waiting;
    RoundId round;  // committed so far; == rules.rounds in the final evaluation
    std::string model_digest;
    std::set<ClientId> connected;     // those that can train the base model, and are free to
    std::set<ClientId> busy;          // the same, while another job's task holds them
    std::set<ClientId> unasked;       // of those connected: who may still be asked in the open round
    std::set<ClientId> unasked_busy;  // the same of those busy
    Parts parts;                      // of the open round; asynchronous: and of those still at work for it
    LastMoments last_moments;  // of those asked; empty before K updates are in, and in asynchronous jobs
    History history;
    std::optional<Pause> paused;
    std::string cause;  // of Failed and Stopped

    Timestamp clock{};  // the moment at which the working time was `worked`
    Duration worked{};
    Duration since{};                      // of the phase
    Duration opened{};                     // of the open round
    Duration last_accepted{};              // in it
    Duration last_round{};                 // how long the last committed round took
    std::optional<Duration> enough_since;  // Waiting: since when K clients are there
    std::optional<Duration> recovered;     // the open round has lived through a restart: when
    Duration next_look = Duration::max();  // when somebody asked may be missing, at the earliest
    bool closing = false;    // its set was fixed before the restart: it closes again, with the same updates
    bool delivered = false;  // the final version: see VersionDelivered
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
struct SignOfLife {  // progress, bytes or a heartbeat of a connected client
    ClientId client;
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
struct VersionDelivered {  // it is on the disk and its adapter is written: no job ends well before that
    RoundId round;         // of the version
};
struct AggregationFailed {  // or the last version's adapter cannot be written
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
using Event = std::variant<ClientJoined, ClientLeft, ClientBusy, ClientFree, SignOfLife, ClientDeclined,
                           UploadAccepted, UploadRefused, EvaluationArrived, RoundCommitted, VersionDelivered,
                           AggregationFailed, Tick, PauseRequested, ResumeRequested, StopRequested>;

// ------------------------------------------------------------------------------------------------------
// effects

enum class TaskKind { Train, Evaluate };

// Why somebody asked was dropped. Late is nobody's fault; the lost count as drop-outs.
constexpr std::string_view kLate = "late", kLost = "lost", kTooStale = "stale";

struct OpenRound {  // Ledger::open_round; before the tasks go out
    RoundId round;
    TaskKind kind = TaskKind::Train;
    std::vector<ClientId> clients;
    std::string model_digest;
};
struct AskClient {  // send the Task; again after a reconnection
    ClientId client;
    RoundId round;  // of the version it starts from
    TaskKind kind = TaskKind::Train;
};
struct RecordPart {  // Ledger::record_part: asked after the opening, refused, declined or dropped
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
struct DroppedPart {
    PartKey part;
    std::string reason;  // kLate or kLost
};
struct CloseRound {  // Ledger::close_round, then mean, version, commit_round, then the event RoundCommitted
    RoundId round;
    std::vector<PartKey> accepted;  // sorted
    std::vector<DroppedPart> dropped;
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

// Whether an update of this client, started from this round's version, would be counted now, and in which
// round: ask on the same strand, right before Ledger::accept. Duplicate: it is counted already (the ledger
// knows with which digest). Stale: it never will be.
Result<RoundId> admits(const JobState& state, RoundId round, const ClientId& client);

// Asynchronous: the buffer is full and the next round not open yet. Ask admits() when that has passed; no
// verdict before.
bool withholds(const JobState& state);

bool is_asked(const JobState& state, const ClientId& client);  // its answer is still wanted
std::optional<ClientId> client_of(const Event& event);         // whom it is about
bool is_answer(const Event& event);                            // to a task

// The state after a restart. `rounds` are all of the job's, `parts` those of the rounds from first_needed()
// on. Nobody is connected yet; follow it with a Tick, then with ClientJoined for whoever returns.
JobState recover(const Rules& rules, const store::JobRow& job, const std::vector<store::RoundRow>& rounds,
                 const std::vector<store::PartRow>& parts, Timestamp now);
RoundId first_needed(const Rules& rules, RoundId round);

// The working time from asking a client to `now`: PartRow::elapsed of an update that is accepted now.
Duration time_taken(const JobState& state, RoundId round, const ClientId& client, Timestamp now);

// How long the open round has been worked on.
Duration round_time(const JobState& state, Timestamp now);

// What a job waits for, since when, and what happens next. No full stops.
struct Wait {
    std::string_view reason;  // one word of a few, for metrics: "clients", "updates", "commit", "resume", ...
    std::string what;         // "site-b and site-c to send updates of round 3 (1 of at least 2 is in)"
    Duration since{};         // how long it has been waited
    std::string next;         // "then round 3 closes"; empty when the job is over
};
Wait wait_of(const JobState& state, Timestamp now);

// The same as one sentence, for `job show` and the log: "<what>, for 12 s; <next>".
std::string waiting_for(const JobState& state, Timestamp now);

}  // namespace fedllm::server::round
