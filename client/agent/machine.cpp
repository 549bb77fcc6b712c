#include "client/agent/machine.hpp"

#include <utility>

#include "common/base/text.hpp"

namespace fedllm::client::agent {
namespace {

std::string describe(const Task& task) {
    if (task.kind == TaskKind::Evaluate) return "task " + task.id.get() + ": evaluate the model";
    const std::uint32_t steps = task.job.train.local_steps;
    return "task " + task.id.get() + ": train " +
           (steps == 0 ? "one pass over the data" : std::to_string(steps) + " steps") + ", round " +
           std::to_string(task.round.get() + 1) + " of " + std::to_string(task.job.rounds) + " of job '" +
           task.job.name + "'";
}

std::string describe(const VerdictArrived& verdict) {
    switch (verdict.outcome) {
        case Outcome::Accepted: return "accepted by the server";
        case Outcome::AlreadyAccepted: return "the server already had it";
        case Outcome::Refused: break;
    }
    return "refused by the server: " + verdict.reason + ": " + verdict.detail;
}

// The verdict about `earlier` was not heard; the next task says whether its update was counted.
Fate fate_of(const Task& earlier, const Task& next) {
    if (earlier.job_id != next.job_id) return Fate::Unknown;
    return earlier.id == next.counted ? Fate::Counted : Fate::NotCounted;
}

}  // namespace

Effects Machine::step(const Event& event) {
    Effects out;
    std::visit([&](const auto& concrete) { on(concrete, out); }, event);
    return out;
}

void Machine::on(const Welcomed&, Effects&) { connected_ = true; }

void Machine::on(const Disconnected&, Effects&) {
    connected_ = live_ = false;
    if (in<Preparing>()) phase_ = Waiting{};
}

void Machine::on(const TaskArrived& event, Effects& out) {
    if (stopping_) return;
    live_ = true;
    if (task_ && task_->id == event.task.id && task_->model_digest == event.task.model_digest) {
        out.push_back(Say{"task " + task_->id.get() + " is still wanted; going on with it"});
        if (in<Settled>()) report(out);
    } else {
        if (task_) give_up(fate_of(*task_, event.task), out);
        task_ = event.task;
        phase_ = Waiting{};
        fetched_again_ = false;
        out.push_back(Say{describe(*task_)});
    }
    go_on(out);
}

void Machine::on(const TaskRefused& event, Effects& out) {
    give_up(Fate::Unknown, out);
    out.push_back(Say{"task " + event.id.get() + " declined: " + event.error.message});
    out.push_back(SendDecline{event.id, event.error});
}

void Machine::on(const UpdateFound& event, Effects& out) {
    if (!is_current(event.id) || !in<Preparing>()) return;
    out.push_back(Say{"task " + event.id.get() + " was trained before a restart; offering that update"});
    settle(event.claim, out);
}

void Machine::on(const InitialWanted& event, Effects& out) {
    if (!is_current(event.id) || !in<Preparing>() || stopping_) return;
    worker_ = event.id;
    out.push_back(MakeInitial{*task_});
}

void Machine::on(const InitialMade& event, Effects& out) {
    if (worker_ == event.id) worker_.reset();
    if (is_current(event.id) && in<Preparing>()) phase_ = Waiting{};
    go_on(out);
}

void Machine::on(const VersionHeld& event, Effects& out) {
    if (!is_current(event.id) || !in<Preparing>() || stopping_) return;
    phase_ = Working{};
    worker_ = event.id;
    out.push_back(StartWork{*task_});
}

void Machine::on(const Progressed& event, Effects& out) {
    if (is_current(event.id) && in<Working>() && live_) out.push_back(SendProgress{event.id, event.progress});
}

// Of a task that was released and given again meanwhile, the release may have taken the update: what is on
// the disk then decides, when the task is prepared.
void Machine::on(const Trained& event, Effects& out) {
    const bool was_released = in<Waiting>();
    if (!release_worker(event.id)) {
        out.push_back(DropUpdate{event.id});
    } else if (!was_released) {
        settle(event.claim, out);
    }
    go_on(out);
}

void Machine::on(const Evaluated& event, Effects& out) {
    if (release_worker(event.id)) settle(event.evaluation, out);
    go_on(out);
}

void Machine::on(const WorkFailed& event, Effects& out) {
    const bool was_working = in<Working>();
    if (!release_worker(event.id) || stopping_) return go_on(out);
    if (event.error.code == Errc::DigestMismatch && !std::exchange(fetched_again_, true)) {
        out.push_back(Say{"task " + event.id.get() + ": " + event.error.message + "; fetching it again"});
        phase_ = Waiting{};
    } else if (event.error.code == Errc::IoFailed) {
        // A disk that is full or failing says nothing about the task: we come back for it, as after any cut.
        phase_ = Waiting{};
        if (std::exchange(live_, false)) out.push_back(Disconnect{event.error});
    } else if (event.error.code != Errc::Cancelled || was_working) {
        settle(event.error, out);
    }
    go_on(out);
}

void Machine::on(const ProceedArrived& event, Effects& out) {
    if (!is_current(event.id) || !in<Settled>()) return;
    const auto* claim = std::get_if<update::Claim>(&std::get<Settled>(phase_));
    if (claim == nullptr) return;
    if (event.offset > claim->bytes) {
        out.push_back(Disconnect{make_error(
            Errc::Malformed, "Proceed.offset is " + std::to_string(event.offset) + ", beyond the update's " +
                                 std::to_string(claim->bytes) + " bytes")});
        return;
    }
    out.push_back(Upload{event.id, event.offset});
}

void Machine::on(const VerdictArrived& event, Effects& out) {
    if (!is_current(event.id)) return;
    out.push_back(Say{"task " + event.id.get() + ": " + describe(event)});
    give_up(event.outcome == Outcome::Refused ? Fate::NotCounted : Fate::Counted, out);
}

void Machine::on(const ReleaseArrived& event, Effects& out) {
    if (!is_current(event.id)) return;
    out.push_back(Say{"task " + event.id.get() + " released: " + event.reason});
    give_up(Fate::NotCounted, out);
}

void Machine::on(const StopAsked&, Effects& out) {
    if (std::exchange(stopping_, true)) return;
    if (worker_) out.push_back(StopWork{});
    if (connected_) out.push_back(SendGoodbye{});
}

// The worker is free again; whether what it brings belongs to the current task.
bool Machine::release_worker(const TaskId& id) {
    if (worker_ == id) worker_.reset();
    return is_current(id) && !in<Settled>();
}

void Machine::go_on(Effects& out) {
    if (!task_ || !live_ || !in<Waiting>() || worker_ || stopping_) return;
    phase_ = Preparing{};
    out.push_back(Prepare{*task_, fetched_again_});
}

void Machine::settle(Settled result, Effects& out) {
    phase_ = std::move(result);
    if (live_ && !stopping_) report(out);
}

void Machine::report(Effects& out) const {
    const auto& settled = std::get<Settled>(phase_);
    const TaskId& id = task_->id;
    if (const auto* claim = std::get_if<update::Claim>(&settled)) {
        out.push_back(Say{"task " + id.get() + ": offering an update of " + format_bytes(claim->bytes)});
        out.push_back(SendOffer{id, *claim});
    } else if (const auto* evaluation = std::get_if<update::Evaluation>(&settled)) {
        out.push_back(SendEvaluation{id, *evaluation});
    } else {
        const Error& error = std::get<Error>(settled);
        out.push_back(Say{"task " + id.get() + " declined: " + error.message});
        out.push_back(SendDecline{id, error});
    }
}

void Machine::give_up(Fate fate, Effects& out) {
    if (!task_) return;
    if (in<Working>() && worker_ == task_->id) out.push_back(StopWork{});
    if (task_->kind == TaskKind::Train) out.push_back(DropUpdate{task_->id, fate});
    task_.reset();
}

}  // namespace fedllm::client::agent
