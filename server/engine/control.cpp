// The engine's half about jobs that somebody pauses, resumes or stops, and about what an audit needs to know.
#include "common/log/log.hpp"
#include "server/engine/engine.hpp"

namespace fedllm::server::engine {
namespace {

// A page stays far below the control frame's limit, whatever the names.
constexpr int kRoundsMax = 1000;
constexpr int kContributionsMax = 1500;

std::optional<round::Event> event_of(protocol::JobAction action, const std::string& cause) {
    switch (action) {
        case protocol::JOB_ACTION_PAUSE: return round::PauseRequested{cause};
        case protocol::JOB_ACTION_RESUME: return round::ResumeRequested{};
        case protocol::JOB_ACTION_STOP: return round::StopRequested{cause};
        default: return std::nullopt;
    }
}

void fill(const store::PartRow& part, protocol::AuditContribution& out) {
    out.set_client(part.client.get());
    out.set_from_round(part.round.get());
    out.set_digest(part.update_digest);
    out.set_bytes(part.bytes);
    out.set_weight(part.weight);
    out.set_codec(part.codec);
}

}  // namespace

// No start looks again at a job that is over: the version that it has sent is on the disk before it is.
net::awaitable<Result<void>> Engine::newest_is_durable(JobId id) {
    const auto durable = [&] {
        const ActiveJob* const job = find(id);
        return failed_ || job == nullptr || job->durable;
    };
    if (!co_await until(durable)) co_return make_error(Errc::Cancelled, "the server is stopping");
    if (failed_) co_return make_error(Errc::StoreFailed, "the server's disk or ledger has failed");
    co_return Result<void>{};
}

net::awaitable<Result<protocol::JobSummary>> Engine::control(std::string operator_name,
                                                             protocol::ControlJob request) {
    const JobId id(request.job_id());
    if (request.action() == protocol::JOB_ACTION_STOP) FEDLLM_CO_TRY_VOID(co_await newest_is_durable(id));
    FEDLLM_CO_TRY(const store::JobRow before, ledger_.job(id));
    const bool aside = is_aside(before);
    if (find(id) == nullptr && !aside) {
        co_return make_error(Errc::Stale, "job " + id.get() + " is over: it is " +
                                              std::string(store::name(before.status)) + ", " + before.detail);
    }
    const std::string cause = request.cause().empty() ? "asked for by " + operator_name : request.cause();
    const auto event = event_of(request.action(), cause);
    if (!event) co_return make_error(Errc::InvalidArgument, "there is no such action on a job");
    log::info("job controlled", {{"job", id.get()},
                                 {"action", protocol::JobAction_Name(request.action())},
                                 {"operator", operator_name},
                                 {"cause", cause}});
    if (aside) {
        FEDLLM_CO_TRY_VOID(control_aside(before, *event));
    } else {
        raise(id, *event);
    }
    FEDLLM_CO_TRY(const store::JobRow after, ledger_.job(id));
    protocol::JobSummary summary;
    fill_summary(after, summary);
    co_return summary;
}

Result<protocol::AuditRows> Engine::audit_rows(const protocol::AuditJob& request) const {
    const JobId id(request.job_id());
    FEDLLM_TRY(const store::JobRow job, ledger_.job(id));
    FEDLLM_TRY(const store::VersionRow initial, ledger_.version(id, RoundId(0)));
    FEDLLM_TRY(const auto rounds, ledger_.rounds(id));
    protocol::AuditRows rows;
    rows.set_job_id(id.get());
    rows.set_job(job.yaml);
    rows.set_initial_digest(initial.digest);
    rows.set_model_digest(job.model_digest);
    rows.set_chain(job.chain);
    rows.set_rounds_committed(job.round.get());
    int room = kContributionsMax;
    for (const store::RoundRow& round : rounds) {
        if (round.round.get() < request.round() || round.chain.empty()) continue;
        rows.set_more(room == 0 || rows.rounds_size() == kRoundsMax);
        if (rows.more()) break;
        protocol::AuditRound& out = *rows.add_rounds();
        out.set_round(round.round.get());
        out.set_base_digest(round.model_digest);
        out.set_next_digest(round.next_digest);
        out.set_chain(round.chain);
        FEDLLM_TRY(const auto counted, ledger_.contributions(id, round.round));
        const bool first = round.round.get() == request.round();
        for (std::size_t i = first ? request.contributions() : 0; i < counted.size(); ++i) {
            rows.set_more(room == 0);
            if (room-- == 0) return rows;
            fill(counted[i], *out.add_contributions());
        }
    }
    return rows;
}

}  // namespace fedllm::server::engine
