// The engine's half about memory: whether a job's sum fits beside those of the jobs under way. One that does
// not is refused before the first byte of its version; one that fits no more when it is to be taken up is
// laid aside: paused in the ledger, and in memory nothing. So a server never dies in the middle of a round
// for a job that it could not hold.
#include "common/log/log.hpp"
#include "server/engine/engine.hpp"

namespace fedllm::server::engine {
namespace {

std::uint64_t sum_bytes(const job::JobSpec& spec, std::uint64_t elements) {
    return elements * (static_cast<std::uint64_t>(spec.aggregation.sum_bits) / 8);
}

std::string mebibytes(std::uint64_t bytes) {
    constexpr std::uint64_t kMebibyte = std::uint64_t{1} << 20;
    return std::to_string(bytes / kMebibyte + (bytes % kMebibyte > 0)) + " MiB";
}

}  // namespace

Result<void> Engine::check_room(const job::JobSpec& spec, std::uint64_t elements) const {
    const std::uint64_t room = options_.sum_memory ? options_.sum_memory() : 0;
    std::uint64_t held = 0;
    for (const auto& job : jobs_) held += sum_bytes(job->spec, job->shape->layout.elements);
    const std::uint64_t needed = sum_bytes(spec, elements);
    if (room == 0 || held + needed <= room) return {};
    const bool wide = spec.aggregation.sum_bits == tensor::SumBits::Bits64;
    return make_error(Errc::TooLarge,
                      "aggregation.sum_bits: the exact sum of " + std::to_string(elements) +
                          " values takes " + mebibytes(needed) + (wide ? " with 64 bits" : " with 32 bits") +
                          ", the jobs under way " + mebibytes(held) + ", and this server has " +
                          mebibytes(room) + " for all of them (limits.sum_memory); " +
                          (wide ? "choose sum_bits: 32 for half of it, " : "") +
                          "train fewer layers, wait for the other jobs, or give the server more memory");
}

bool Engine::is_aside(const store::JobRow& row) const {
    return find(row.id) == nullptr && row.status == store::JobStatus::Paused;
}

Error Engine::not_under_way(const JobId& id) const {
    const auto row = ledger_.job(id);
    return {Errc::Stale, row && is_aside(*row) ? "the job is paused, for its sum does not fit into memory"
                                               : "the job is over"};
}

Result<void> Engine::lay_aside(const store::JobRow& row, const Error& why) {
    log::error("a job is paused: its sum does not fit into memory",
               {{"job", row.id.get()}, {"reason", why.message}});
    const bool was = row.status == store::JobStatus::Paused && !row.detail.empty();
    FEDLLM_TRY_VOID(ledger_.mark_job(
        row.id, store::JobStatus::Paused,
        why.message + "; then resume it" + (was ? " (it was paused before: " + row.detail + ")" : "")));
    metrics_.job_waiting(row.id, "", "resume");
    return {};
}

// Of a job that was laid aside; to pause it is nothing new.
Result<void> Engine::control_aside(const store::JobRow& row, const round::Event& event) {
    if (const auto* stop = std::get_if<round::StopRequested>(&event)) {
        auto stopped = ledger_.finish_job(row.id, store::JobStatus::Stopped, stop->cause);
        if (!hold(stopped)) return stopped;
        metrics_.job_waiting(row.id, "resume", "");
        metrics_.job_ended(row.id, "stopped");
        log::warn("job stopped", {{"job", row.id.get()}, {"cause", stop->cause}});
        return {};
    }
    if (!std::holds_alternative<round::ResumeRequested>(event)) return {};
    auto active = activate(row);
    if (!hold(active)) return active;
    if (find(row.id) != nullptr) {
        raise(row.id, event);
        return {};
    }
    FEDLLM_TRY(const store::JobRow still, ledger_.job(row.id));
    return make_error(Errc::TooLarge, "job " + row.id.get() + " stays " +
                                          std::string(store::name(still.status)) + ": " + still.detail);
}

}  // namespace fedllm::server::engine
