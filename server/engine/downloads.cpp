// The engine's half about downloads: which version a task starts from, by which steps, and their bytes.
#include <algorithm>
#include <vector>

#include "common/net/offload.hpp"
#include "server/engine/engine.hpp"

namespace fedllm::server::engine {

void Engine::ask(ActiveJob& job, const round::AskClient& effect) {
    const auto link = links_.find(effect.client);
    if (link == links_.end()) return;
    const auto version = ledger_.version(job.id, effect.round);
    if (!version) {
        hold(version.error());
        return;
    }
    protocol::ServerMessage message;
    protocol::Task& task = *message.mutable_task();
    task.set_task_id(store::task_id(job.id, effect.round, effect.client).get());
    task.set_kind(effect.kind == round::TaskKind::Train ? protocol::TASK_KIND_TRAIN
                                                        : protocol::TASK_KIND_EVALUATE);
    task.set_job_id(job.id.get());
    task.set_job(job.yaml);
    task.set_round(effect.round.get());
    task.set_model_digest(version->digest);
    task.set_model_bytes(version->bytes);
    if (!hold(add_counted(effect, task))) return;
    const registry::Member* const member = registry_.find(effect.client);
    if (member != nullptr && member->can_decode(codec::name(job.spec.download.codec.id))) {
        if (!hold(add_steps(job, task))) return;
    }
    say(*link->second, std::move(message));
}

// The newest of the client's updates that is counted, among rounds so few that a residual of theirs is still
// of use: the client may not have heard the Verdict.
Result<void> Engine::add_counted(const round::AskClient& effect, protocol::Task& task) const {
    constexpr std::uint32_t kRoundsBack = 10;
    const JobId job(task.job_id());
    for (std::uint32_t back = 1; back <= std::min(kRoundsBack, effect.round.get()); ++back) {
        const RoundId round(effect.round.get() - back);
        FEDLLM_TRY(const auto part, ledger_.part(job, round, effect.client));
        if (!part || part->status != store::PartStatus::Accepted) continue;
        task.set_counted_task_id(part->task.get());
        break;
    }
    return {};
}

// The last steps that lead to the task's version, oldest first, while they are fewer bytes than the version
// itself, which in an asynchronous job may not be the newest: from further back, and for whoever holds
// nothing, the whole version is the shorter way.
Result<void> Engine::add_steps(const ActiveJob& job, protocol::Task& task) const {
    FEDLLM_TRY(const auto latest,
               ledger_.versions_up_to(job.id, RoundId(task.round()), protocol::kVersionStepsMax));
    std::size_t count = 0;
    for (std::uint64_t bytes = 0; count < latest.size() && !latest[count].base_digest.empty(); ++count) {
        if (latest[count].removed) break;
        bytes += latest[count].encoded_bytes;
        if (bytes >= task.model_bytes()) break;
    }
    while (count > 0) {
        const store::VersionRow& row = latest[--count];
        protocol::VersionStep& step = *task.add_steps();
        step.set_base_digest(row.base_digest);
        step.set_digest(row.digest);
        step.set_encoded_digest(row.encoded_digest);
        step.set_encoded_bytes(row.encoded_bytes);
    }
    return {};
}

void Engine::begin_download(const std::string& digest) {
    for (const auto& job : jobs_) {
        const store::VersionRow& newest = job->base.row;
        if (job->unsent_since == 0 || (digest != newest.digest && digest != newest.encoded_digest)) continue;
        metrics_.round_closed(job->id, monotonic_seconds() - job->unsent_since);
        job->unsent_since = 0;
    }
}

void Engine::count_download(const ClientId& client, std::uint64_t bytes) {
    metrics_.bytes_moved(client, observe::Direction::Down, bytes);
    const JobId* const holder = schedule_.holder(client);
    if (holder == nullptr) return;
    if (ActiveJob* const job = find(*holder)) job->live[client].bytes_down += bytes;
}

net::awaitable<Result<SharedVersion>> Engine::version(std::string digest) {
    if (auto known = version_cache_[digest].lock()) co_return Result<SharedVersion>(std::move(known));
    const bool step = ledger_.step(digest).has_value();
    if (auto row = ledger_.version(digest); !step && !row) {
        version_cache_.erase(digest);
        co_return row.error();
    } else if (!step && row->removed) {
        co_return make_error(Errc::NotFound, "version " + digest.substr(0, 12) + " of job " + row->job.get() +
                                                 " is not kept any more: retention.versions is " +
                                                 std::to_string(options_.retention.versions));
    }
    auto mapped = co_await net::offload(compute_, [&] {
        return step ? versions_.map(store::Attachment::Step, digest) : versions_.map(digest);
    });
    if (!mapped) co_return mapped.error();
    // Of many that asked at once, all share what the first one mapped.
    if (auto known = version_cache_[digest].lock()) co_return Result<SharedVersion>(std::move(known));
    auto shared = std::make_shared<const MappedFile>(std::move(*mapped));
    std::erase_if(version_cache_, [](const auto& entry) { return entry.second.expired(); });
    version_cache_[digest] = shared;
    co_return Result<SharedVersion>(std::move(shared));
}

}  // namespace fedllm::server::engine
