// What a client does when, as a pure function of what happens: step(event) -> effects. No socket, disk, clock
// or thread; agent.hpp carries the effects out in order and reports what came of them as events.
//
//   Idle --Task--> Preparing (find a finished update; else hold the model version: make it from the seed, or
//                             fetch what is missing)
//        --held--> Working (training or evaluating, on the worker)
//        --done--> Settled (offered, evaluated or declined) --Verdict, Release--> Idle
//
// A connection may end at any point. Work goes on without one; when the server repeats the Task, the machine
// goes on where it is: the result is offered again, the missing bytes are fetched. A different Task means
// that the old one is over.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "client/update/update_store.hpp"
#include "common/base/ids.hpp"
#include "common/base/result.hpp"
#include "common/job/job_spec.hpp"

namespace fedllm::client::agent {

enum class TaskKind { Train, Evaluate };

struct VersionStep {  // base + decoded difference = version
    std::string base_digest;
    std::string digest;
    std::string encoded_digest;
    std::uint64_t encoded_bytes = 0;
    bool operator==(const VersionStep&) const = default;
};

struct Task {
    TaskId id;
    TaskKind kind = TaskKind::Train;
    JobId job_id;
    job::JobSpec job;
    RoundId round;
    std::string model_digest;
    std::uint64_t model_bytes = 0;
    std::vector<VersionStep> steps;  // the last ones that lead to model_digest, oldest first
    TaskId counted;                  // our newest one of this job whose update the server counted
    bool operator==(const Task&) const = default;
};

struct Progress {
    std::uint32_t step = 0;
    std::uint32_t steps = 0;
    double loss = 0;
    double tokens_per_second = 0;
    bool operator==(const Progress&) const = default;
};

enum class Outcome { Accepted, AlreadyAccepted, Refused };

// -------------------------------------------------------------------------------------------------------
// events

struct Welcomed {};  // a new connection is ready for tasks
struct Disconnected {};
struct TaskArrived {
    Task task;
};
struct TaskRefused {  // its job cannot be read, or the site's policy forbids it
    TaskId id;
    Error error;
};
struct UpdateFound {  // Prepare: trained before, by a process that is gone
    TaskId id;
    update::Claim claim;
};
struct InitialWanted {  // Prepare: perhaps the job's seed gives the version, or the base of its steps
    TaskId id;
};
struct InitialMade {  // MakeInitial is over: what it made is held, or it was something else
    TaskId id;
};
struct VersionHeld {  // Prepare: all bytes are on disk (the worker checks the digest)
    TaskId id;
};
struct Progressed {
    TaskId id;
    Progress progress;
};
struct Trained {  // the update is on disk
    TaskId id;
    update::Claim claim;
};
struct Evaluated {
    TaskId id;
    update::Evaluation evaluation;
};
// Cancelled: it stopped as asked; DigestMismatch: the version is damaged and removed; IoFailed: our disk is
// full or failing, the task may go better after a pause.
struct WorkFailed {
    TaskId id;
    Error error;
};
struct ProceedArrived {
    TaskId id;
    std::uint64_t offset = 0;
};
struct VerdictArrived {
    TaskId id;
    Outcome outcome = Outcome::Accepted;
    std::string reason;
    std::string detail;
};
struct ReleaseArrived {
    TaskId id;
    std::string reason;
};
struct StopAsked {};  // SIGTERM
using Event = std::variant<Welcomed, Disconnected, TaskArrived, TaskRefused, UpdateFound, InitialWanted,
                           InitialMade, VersionHeld, Progressed, Trained, Evaluated, WorkFailed,
                           ProceedArrived, VerdictArrived, ReleaseArrived, StopAsked>;

// ------------------------------------------------------------------------------------------------------
// effects

// Answer with UpdateFound, InitialWanted or VersionHeld; fetch first what is missing of the version.
struct Prepare {
    Task task;
    bool whole = false;  // not by steps: they came, and did not lead to it
};
struct MakeInitial {  // on the worker; answer with InitialMade
    Task task;
};
struct StartWork {  // answer with Progressed ..., then Trained, Evaluated or WorkFailed
    Task task;
};
struct StopWork {};  // WorkFailed{Cancelled} follows, unless the work was done at that moment
struct SendProgress {
    TaskId id;
    Progress progress;
};
struct SendOffer {
    TaskId id;
    update::Claim claim;
};
struct SendEvaluation {
    TaskId id;
    update::Evaluation evaluation;
};
struct SendDecline {
    TaskId id;
    Error error;
};
struct Upload {  // the update's bytes from `offset` on
    TaskId id;
    std::uint64_t offset = 0;
};
// What became of a finished update; Unknown: the server went on to another job without our hearing its
// verdict.
enum class Fate { Counted, NotCounted, Unknown };
struct DropUpdate {
    TaskId id;
    Fate fate = Fate::NotCounted;
};
struct Disconnect {  // the server breaks the protocol, or we cannot go on now
    Error error;
};
struct SendGoodbye {};
struct Say {  // for the log
    std::string line;
    bool operator==(const Say&) const = default;
};
using Effect = std::variant<Prepare, MakeInitial, StartWork, StopWork, SendProgress, SendOffer,
                            SendEvaluation, SendDecline, Upload, DropUpdate, Disconnect, SendGoodbye, Say>;
using Effects = std::vector<Effect>;

class Machine {
public:
    Effects step(const Event& event);

    bool working() const { return worker_.has_value(); }
    bool stopping() const { return stopping_; }
    const std::optional<Task>& task() const { return task_; }

private:
    struct Waiting {};  // for the worker to let go of the task before, or for the Task to be repeated
    struct Preparing {};
    struct Working {};
    using Settled = std::variant<update::Claim, update::Evaluation, Error>;
    using Phase = std::variant<Waiting, Preparing, Working, Settled>;

    void on(const Welcomed& event, Effects& out);
    void on(const Disconnected& event, Effects& out);
    void on(const TaskArrived& event, Effects& out);
    void on(const TaskRefused& event, Effects& out);
    void on(const UpdateFound& event, Effects& out);
    void on(const InitialWanted& event, Effects& out);
    void on(const InitialMade& event, Effects& out);
    void on(const VersionHeld& event, Effects& out);
    void on(const Progressed& event, Effects& out);
    void on(const Trained& event, Effects& out);
    void on(const Evaluated& event, Effects& out);
    void on(const WorkFailed& event, Effects& out);
    void on(const ProceedArrived& event, Effects& out);
    void on(const VerdictArrived& event, Effects& out);
    void on(const ReleaseArrived& event, Effects& out);
    void on(const StopAsked& event, Effects& out);

    bool is_current(const TaskId& id) const { return task_ && task_->id == id; }
    template <class P>
    bool in() const {
        return std::holds_alternative<P>(phase_);
    }
    bool release_worker(const TaskId& id);
    void go_on(Effects& out);
    void settle(Settled result, Effects& out);
    void report(Effects& out) const;
    void give_up(Fate fate, Effects& out);

    std::optional<Task> task_;
    Phase phase_;
    bool fetched_again_ = false;  // the version, or a step to it, came damaged; twice is once too often
    bool connected_ = false;
    bool live_ = false;             // the Task was heard on this connection: the server waits for it
    std::optional<TaskId> worker_;  // what the worker is busy with; after a StopWork no longer task_
    bool stopping_ = false;
};

}  // namespace fedllm::client::agent
