// The engine's half about operators: submitting jobs, and saying how they stand.
#include <cmath>
#include <filesystem>

#include "common/log/log.hpp"
#include "common/net/offload.hpp"
#include "server/engine/engine.hpp"

namespace fedllm::server::engine {
namespace {

// Of a report: far below the control frame's limit, in bytes and in elements, whatever the last part says.
constexpr std::size_t kPageBytes = std::size_t{512} << 10;
constexpr std::size_t kPageParts = 4000;

std::uint64_t to_ms(Timestamp time) { return static_cast<std::uint64_t>(time.time_since_epoch().count()); }

std::string part_state(const store::PartRow& row, bool uploading) {
    if (row.status != store::PartStatus::Asked) return std::string(store::name(row.status));
    return uploading ? "uploading" : "working";
}

void fill(const store::RoundRow& row, Timestamp now, protocol::RoundReport& out) {
    out.set_round(row.round.get());
    out.set_state(std::string(store::name(row.status)));
    out.set_model_digest(row.model_digest);
    out.set_eval_loss(row.eval_loss);
    out.set_train_loss(row.train_loss);
    out.set_seconds(std::chrono::duration<double>(row.closed.value_or(now) - row.opened).count());
}

}  // namespace

Result<ingest::Upload> Engine::begin_submission(const std::string& operator_name,
                                                const protocol::SubmitJob& request) {
    FEDLLM_TRY(const job::JobSpec spec, job::parse_job(request.job(), "the submitted job"));
    if (request.initial_bytes() > options_.upload_bytes_max) {
        return make_error(Errc::TooLarge, "the initial version has " +
                                              std::to_string(request.initial_bytes()) +
                                              " bytes; limits.upload_bytes_max allows " +
                                              std::to_string(options_.upload_bytes_max));
    }
    // Its values are f32; the file's names and shapes, which count as some here, are few bytes beside them.
    FEDLLM_TRY_VOID(check_room(spec, request.initial_bytes() / sizeof(float)));
    const auto nothing_to_check = [](std::span<const std::byte>) -> Result<void> { return {}; };
    return spool_.begin(TaskId("submission/" + operator_name), request.initial_digest(),
                        request.initial_bytes(), nothing_to_check);
}

net::awaitable<Result<JobId>> Engine::submit(protocol::SubmitJob request, ingest::Upload initial) {
    const auto adopt = [&]() -> Result<store::VersionFile> {
        FEDLLM_TRY_VOID(initial.commit());
        return versions_.adopt(initial.final_path(), request.initial_digest());
    };
    FEDLLM_CO_TRY(const auto version, co_await net::offload(disk_threads_, adopt));
    FEDLLM_CO_TRY(const job::JobSpec spec, job::parse_job(request.job(), "the submitted job"));
    auto id = ledger_.add_job(spec.name, job::print_job(spec), version.digest, version.bytes, clock_.now());
    if (!id) {
        hold(id.error());
        co_return id.error();
    }
    log::info("job submitted", {{"job", id->get()}, {"name", spec.name}, {"rounds", spec.rounds}});
    const auto row = ledger_.job(*id);
    if (hold(row ? Result<void>{} : Result<void>(row.error()))) hold(activate(*row));
    if (ActiveJob* const job = find(*id)) {
        if (!job->sum) job->spare_sum = make_sum(job->shape, job->spec);
        const SharedSum sum = job->sum ? job->sum : job->spare_sum;
        co_await net::offload(disk_threads_, [&] {
            sum->values().take_memory();
            return true;
        });
    }
    co_return id;
}

void Engine::fill_summary(const store::JobRow& row, protocol::JobSummary& summary) const {
    summary.set_job_id(row.id.get());
    summary.set_name(row.name);
    summary.set_state(std::string(store::name(row.status)));
    summary.set_round(row.round.get());
    if (const auto spec = job::parse_job(row.yaml, row.id.get())) summary.set_rounds(spec->rounds);
    summary.set_model_digest(row.model_digest);
    summary.set_created_ms(to_ms(row.created));
    summary.set_cause(protocol::sendable(row.detail));
    if (const auto chain = ledger_.chain(row.id)) summary.set_chain(*chain);
    const ActiveJob* const job = find(row.id);
    if (job == nullptr) return;
    const Timestamp now = clock_.now();
    const round::Wait wait = round::wait_of(job->state, now);
    summary.set_waiting_for(round::waiting_for(job->state, now));
    summary.set_waiting_reason(std::string(wait.reason));
    summary.set_waiting_since_ms(to_ms(now - wait.since));
}

Result<protocol::JobList> Engine::list_jobs() const {
    protocol::JobList list;
    FEDLLM_TRY(const auto rows, ledger_.jobs());
    for (const store::JobRow& row : rows) fill_summary(row, *list.add_jobs());
    return list;
}

// `open`: the job, while its round is open, and so has more to say than the ledger knows.
void Engine::fill_part(const store::PartRow& part, const ActiveJob* open, protocol::Part& to) const {
    to.set_client(part.client.get());
    to.set_samples(part.samples);
    to.set_bytes_up(part.bytes);
    to.set_bytes_down(part.bytes_down);
    to.set_loss(std::isnan(part.train_loss) ? 0.0 : part.train_loss);
    to.set_train_seconds(part.train_seconds);
    to.set_detail(protocol::sendable(part.detail));
    to.set_eval_loss_sum(part.eval_loss_sum);
    to.set_eval_tokens(part.eval_tokens);
    to.set_quantisation_error(part.quantisation_error);
    to.set_residual_norm(part.residual_norm);
    to.set_elements(part.elements);
    to.set_codec(part.codec);
    const auto live = open ? open->live.find(part.client) : std::map<ClientId, LivePart>::const_iterator{};
    const bool known = open && live != open->live.end();
    to.set_state(part_state(part, known && live->second.uploading));
    if (!known) return;
    to.set_step(live->second.step);
    to.set_steps(live->second.steps);
    if (part.status != store::PartStatus::Asked) return;
    to.set_loss(live->second.loss);
    to.set_bytes_up(live->second.bytes_up);
    to.set_bytes_down(live->second.bytes_down);
}

Result<protocol::JobReport> Engine::report(const protocol::ShowJob& request) const {
    const JobId id(request.job_id());
    FEDLLM_TRY(const store::JobRow row, ledger_.job(id));
    FEDLLM_TRY(const auto rounds, ledger_.rounds(id));
    protocol::JobReport report;
    fill_summary(row, *report.mutable_summary());
    report.set_job(row.yaml);
    report.set_final_eval_loss(std::nan(""));
    // The round beyond the last is the final evaluation.
    if (!rounds.empty() && rounds.back().round.get() == report.summary().rounds())
        report.set_final_eval_loss(rounds.back().eval_loss);
    const Path latest = options_.state_directory / "adapters" / id.get() / "latest";
    if (const auto found = disk().find(latest); found && *found) {
        std::error_code unknown;
        report.set_adapter_path(std::filesystem::absolute(latest, unknown).string());
    }
    std::size_t bytes = 0;
    for (const store::RoundRow& round : rounds) {
        if (round.round.get() < request.round()) continue;
        report.set_more(bytes >= kPageBytes);
        if (report.more()) break;
        protocol::RoundReport& out = *report.add_rounds();
        fill(round, clock_.now(), out);
        bytes += out.ByteSizeLong();
        const bool goes_on = round.round.get() == request.round();
        FEDLLM_TRY(
            const auto parts,
            ledger_.parts(id, round.round, ClientId(goes_on ? request.after_client() : ""), kPageParts));
        const ActiveJob* const open = round.status == store::RoundStatus::Open ? find(id) : nullptr;
        for (const store::PartRow& part : parts) {
            report.set_more(bytes >= kPageBytes);
            if (report.more()) return report;
            fill_part(part, open, *out.add_parts());
            bytes += out.parts(out.parts_size() - 1).ByteSizeLong();
        }
        report.set_more(parts.size() == kPageParts);
        if (report.more()) return report;
    }
    return report;
}

}  // namespace fedllm::server::engine
