// The engine's half about waits: why a job, a round or a client is where it is, since when, and what happens
// next.
#include <cmath>

#include "common/base/text.hpp"
#include "common/config/value.hpp"
#include "common/log/log.hpp"
#include "server/engine/engine.hpp"

namespace fedllm::server::engine {
namespace {

constexpr Duration kSilence = std::chrono::minutes(1);  // after which it is said when one was last heard of
constexpr std::string_view kNothing = "nothing";
constexpr std::size_t kNamesBytesMax = 200;

protocol::Because because(std::string_view sentence, std::string_view reason, Timestamp since) {
    protocol::Because answer;
    answer.set_sentence(protocol::sendable(sentence));
    answer.set_reason(std::string(reason));
    answer.set_since_ms(static_cast<std::uint64_t>(since.time_since_epoch().count()));
    return answer;
}

std::string round_of(const JobId& job, RoundId round) {
    return "round " + std::to_string(round.get()) + " of " + job.get();
}

}  // namespace

// ------------------------------------------------------------------------------------------------- the job

// A new reason is worth a line; the sentence under it changes with every client.
void Engine::log_waiting(ActiveJob& job) {
    round::Wait wait = round::wait_of(job.state, clock_.now());
    if (wait.reason != job.reason) {
        const bool over = round::is_over(job.state);
        metrics_.job_waiting(job.id, job.reason, over ? "" : wait.reason);
        job.reason = wait.reason;
        if (over) return;
        log::info("waiting",
                  {{"job", job.id.get()}, {"reason", wait.reason}, {"for", wait.what}, {"next", wait.next}});
    } else if (wait.what != job.last_wait) {
        log::debug("waiting", {{"job", job.id.get()}, {"for", wait.what}, {"next", wait.next}});
    }
    job.last_wait = std::move(wait.what);
}

Result<protocol::Because> Engine::why_job(const store::JobRow& row) const {
    const Timestamp now = clock_.now();
    const ActiveJob* const job = find(row.id);
    if (is_aside(row)) {
        return because(row.id.get() + " waits for somebody to resume it; it is paused: " + row.detail,
                       "resume", started_);
    }
    if (job == nullptr) {
        return because(row.id.get() + " waits for nothing: it is " + std::string(store::name(row.status)) +
                           ", " + row.detail,
                       kNothing, row.created);
    }
    const round::Wait wait = round::wait_of(job->state, now);
    std::string next = wait.next;
    if (const auto closes = round::closes_at(job->state)) next += " (at " + format_utc(*closes, now) + ")";
    return because(row.id.get() + " waits, since " + format_utc(now - wait.since, now) + ", for " +
                       wait.what + unsuitable(*job) + "; " + next,
                   wait.reason, now - wait.since);
}

// Who is connected, and no help to a job that waits for clients.
std::string Engine::unsuitable(const ActiveJob& job) const {
    if (job.state.phase != round::Phase::Waiting || job.state.paused) return "";
    std::string names;
    for (const auto& [client, member] : registry_.members()) {
        if (member.can_train(job.spec.base_model)) continue;
        if (names.size() > kNamesBytesMax) {
            names += " and others";
            break;
        }
        names += (names.empty() ? "" : ", ") + client.get();
    }
    return names.empty() ? "" : ", connected without it: " + names;
}

Result<protocol::Because> Engine::why_round(const store::JobRow& row, RoundId round) const {
    const std::string what = round_of(row.id, round);
    const Timestamp now = clock_.now();
    FEDLLM_TRY(const job::JobSpec spec, job::parse_job(row.yaml, "job " + row.id.get()));
    if (round.get() > spec.rounds) {
        return make_error(Errc::NotFound, row.id.get() + " has the rounds 0 to " +
                                              std::to_string(spec.rounds - 1) + ", and " +
                                              std::to_string(spec.rounds) + " is the final evaluation");
    }
    FEDLLM_TRY(const auto rounds, ledger_.rounds(row.id));
    for (const store::RoundRow& done : rounds) {
        if (done.round != round || done.status != store::RoundStatus::Committed || !done.closed) continue;
        FEDLLM_TRY(const auto counted, ledger_.contributions(row.id, round));
        std::string names;
        for (const auto& part : counted) names += (names.empty() ? "" : ", ") + part.client.get();
        if (names.size() > protocol::kTextBytesMax / 2) names = std::to_string(counted.size()) + " clients";
        return because(what + " waits for nothing: it was committed at " + format_utc(*done.closed, now) +
                           (names.empty() ? "" : ", with the updates of " + names),
                       kNothing, *done.closed);
    }
    FEDLLM_TRY(auto answer, why_job(row));
    if (find(row.id) == nullptr && !is_aside(row)) {
        answer.set_sentence(what + " was not committed and never will be: " + answer.sentence());
    } else if (round != row.round) {
        answer.set_sentence(what + " waits for those before it, at " + std::to_string(row.round.get()) +
                            ": " + answer.sentence());
    }
    return answer;
}

// ---------------------------------------------------------------------------------------------- the client

protocol::Because Engine::at_work(const ActiveJob& job, const registry::Member& member,
                                  const round::Expected& expected) const {
    const Timestamp now = clock_.now();
    const auto entry = job.live.find(member.client);
    const LivePart live = entry == job.live.end() ? LivePart{} : entry->second;
    const std::string task = round_of(job.id, expected.round);
    std::string_view reason = "asked";
    std::string doing = " has its task for " + task + " and has not reported a step yet,";
    if (job.state.phase == round::Phase::FinalEvaluation) {
        reason = "evaluating";
        doing = " is evaluating the final version of " + job.id.get();
    } else if (live.uploading) {
        reason = "uploading";
        doing = " is uploading its update of " + task + ", " + format_bytes(live.bytes_up) + " so far,";
    } else if (live.steps > 0) {
        reason = "training";
        doing = " is at training step " + std::to_string(live.step) + " of " + std::to_string(live.steps) +
                " of " + task;
    }
    std::string text = member.client.get() + doing + " since " + format_utc(expected.asked, now);
    if (live.heard != Timestamp{} && now - live.heard > kSilence) {
        text += " (last heard of at " + format_utc(live.heard, now) + ")";
    }
    if (expected.by) text += "; its update is expected by " + format_utc(*expected.by, now);
    if (const auto closes = round::closes_at(job.state)) {
        text += "; if it does not come, " + round_of(job.id, job.state.round) + " closes at " +
                format_utc(*closes, now) + " without it";
    } else {
        text += "; " + round_of(job.id, job.state.round) + " does not close before enough have answered";
    }
    return because(std::move(text), reason, expected.asked);
}

// Why its part in the open round came to nothing.
std::string Engine::said_of(const ActiveJob& job, const ClientId& client) const {
    const auto row = ledger_.part(job.id, job.state.round, client);
    if (!row || !*row) return "";
    const std::string why = (*row)->detail.empty() ? (*row)->reason : (*row)->detail;
    return why.empty() ? "" : ": " + why;
}

// What became of a connected client's part in a job that does not ask it now.
std::string Engine::idle_in(const ActiveJob& job, const registry::Member& member) const {
    if (!member.can_train(job.spec.base_model)) {
        return job.id.get() + " trains base model '" + job.spec.base_model + "', which it does not offer";
    }
    if (job.state.paused) return job.id.get() + " is paused";
    const auto* const part = job.state.parts.find({job.state.round, member.client});
    const std::string task = round_of(job.id, job.state.round);
    switch (part == nullptr ? round::PartState::Dropped : part->state) {
        case round::PartState::Accepted: return "its update of " + task + " is in";
        case round::PartState::Evaluated: return "it has evaluated the final version of " + job.id.get();
        case round::PartState::Declined: return "it declined " + task + said_of(job, member.client);
        case round::PartState::Refused:
            return "its update of " + task + " was refused" + said_of(job, member.client);
        default: break;
    }
    return job.id.get() + " does not ask it now, and waits for " +
           round::waiting_for(job.state, clock_.now());
}

protocol::Because Engine::idle(const registry::Member& member) const {
    const Timestamp now = clock_.now();
    std::string text =
        member.client.get() + " is connected since " + format_utc(member.since, now) + " and has no task";
    for (const auto& job : jobs_) {
        text += "; " + idle_in(*job, member);
        if (text.size() > protocol::kTextBytesMax / 2) break;
    }
    if (jobs_.empty()) text += "; no job is running";
    return because(std::move(text), "idle", member.since);
}

Result<protocol::Because> Engine::away(const ClientId& client) const {
    const Timestamp now = clock_.now();
    const auto left = registry_.left(client);
    FEDLLM_TRY(const auto last, ledger_.last_answer(client));
    if (!left && !last) {
        return make_error(Errc::NotFound, "there is no job, round or client '" + client.get() +
                                              "' (jobs: 'fedllm job list'; a round is written j1/3)");
    }
    const Timestamp since = left.value_or(started_);
    std::string text = client.get() + " is not connected since " + format_utc(since, now) +
                       (left ? "" : ", when the server started");
    if (last) text += "; its last update came at " + format_utc(*last, now);
    for (const auto& job : jobs_) {
        const auto expected = round::expected_of(job->state, client);
        if (!expected) continue;
        text += "; " + round_of(job->id, job->state.round);
        if (const auto closes = round::closes_at(job->state)) {
            text += " closes at " + format_utc(*closes, now) + " without it if it does not come back";
        } else if (expected->counted_on_until) {
            text += " counts on its return until " + format_utc(*expected->counted_on_until, now) +
                    ", and then asks another in its place";
        } else {
            text += " asks another in its place where it can, and takes its update if it comes back";
        }
    }
    return because(std::move(text), "away", since);
}

Result<protocol::Because> Engine::why_client(const ClientId& client) const {
    const registry::Member* const member = registry_.find(client);
    if (member == nullptr) return away(client);
    for (const auto& job : jobs_) {
        const auto expected = round::expected_of(job->state, client);
        if (expected && !job->state.paused) return at_work(*job, *member, *expected);
    }
    return idle(*member);
}

Result<protocol::Because> Engine::why(const std::string& subject) const {
    const auto slash = subject.find('/');
    const auto job = ledger_.job(JobId(subject.substr(0, slash)));
    if (!job && job.error().code != Errc::NotFound) return job.error();
    if (job && slash == std::string::npos) return why_job(*job);
    if (!job) return why_client(ClientId(subject));
    const auto number = config::parse_unsigned(subject.substr(slash + 1));
    if (!number || *number > 0xFFFFFFFFu) {
        return make_error(Errc::InvalidArgument,
                          "'" + subject + "' is no round; write it as " + job->id.get() + "/3");
    }
    return why_round(*job, RoundId(static_cast<std::uint32_t>(*number)));
}

}  // namespace fedllm::server::engine
