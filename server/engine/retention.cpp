// The engine's half about files whose time is over.
#include "server/engine/retention.hpp"

#include <algorithm>

#include "common/log/log.hpp"
#include "common/net/offload.hpp"
#include "server/engine/commit.hpp"
#include "server/engine/engine.hpp"

namespace fedllm::server::engine {
namespace {

// `count` rounds before `round`, but not before the first.
std::uint32_t back(RoundId round, std::uint32_t count) { return round.get() - std::min(round.get(), count); }

// A link goes, and not what it leads to.
Result<void> remove_with_contents(const Path& path) {
    const auto gone = disk().remove(path);
    if (gone) return {};
    FEDLLM_TRY(const auto found, disk().find(path));
    if (!found) return {};
    if (found->kind != Disk::Status::Kind::Directory) return gone;
    FEDLLM_TRY(const auto names, disk().list(path));
    for (const std::string& name : names) FEDLLM_TRY_VOID(remove_with_contents(path / name));
    return disk().remove(path);
}

}  // namespace

std::vector<RoundId> expired_versions(const std::vector<store::VersionRow>& versions, RoundId oldest_needed,
                                      const RetentionRules& rules) {
    std::vector<RoundId> expired;
    if (versions.empty()) return expired;
    const RoundId latest = versions.back().round;
    // The version that a round starts from is needed to compute the round again: one more than its updates.
    const std::uint32_t kept_from =
        std::min(back(oldest_needed, std::max(rules.versions, 2u) - 1), back(latest, rules.updates));
    for (const store::VersionRow& row : versions) {
        if (row.round.get() > 0 && row.round.get() < kept_from && !row.removed) expired.push_back(row.round);
    }
    return expired;
}

// First the ledger, then the files: what a crash leaves in between goes at the next start.
net::awaitable<Result<void>> Engine::expire(JobId id, Sweep sweep) {
    FEDLLM_CO_TRY(const auto before, ledger_.versions(id));
    if (before.empty()) co_return Result<void>{};
    FEDLLM_CO_TRY(const auto asked, ledger_.oldest_asked(id));
    const RoundId latest = before.back().round;
    const auto expired =
        expired_versions(before, asked ? std::min(*asked, latest) : latest, options_.retention);
    if (!expired.empty() && !hold(ledger_.remove_versions(id, expired, clock_.now())))
        co_return Result<void>{};
    std::set<RoundId> looked_at(expired.begin(), expired.end());
    for (const store::VersionRow& row : before) {
        const bool recent = row.round.get() + 1 == back(latest, options_.retention.updates);
        if (recent || sweep == Sweep::Everything) looked_at.insert(row.round);
    }
    FEDLLM_CO_TRY(const auto paths, spent_files(id, looked_at));
    co_await net::offload(disk_threads_, [&] {
        for (const Path& path : paths) {
            // What is left behind costs space only, and the next start tries again.
            if (auto gone = remove_with_contents(path); !gone) {
                log::warn("a file whose time is over stays until the next start",
                          {{"file", path.string()}, {"reason", gone.error().message}});
            }
        }
        return true;
    });
    if (!expired.empty()) {
        log::debug("versions removed", {{"job", id.get()}, {"versions", expired.size()}});
    }
    co_return Result<void>{};
}

// Files are named by their content, so another job may hold the same ones.
Result<std::vector<Path>> Engine::spent_files(const JobId& id, const std::set<RoundId>& rounds) const {
    FEDLLM_TRY(const auto versions, ledger_.versions(id));
    std::vector<Path> paths;
    for (const store::VersionRow& row : versions) {
        if (!rounds.contains(row.round)) continue;
        FEDLLM_TRY(const auto needed, ledger_.needed(row, options_.retention.updates));
        if (!needed.residual)
            paths.push_back(versions_.path_of(store::Attachment::Residual, row.residual_digest));
        if (!row.removed) continue;
        if (!needed.version) paths.push_back(versions_.path_of(row.digest));
        if (!needed.step) paths.push_back(versions_.path_of(store::Attachment::Step, row.encoded_digest));
        paths.push_back(adapter_folder(options_.state_directory, id, row.round.get()));
    }
    return paths;
}

// The tasks whose files in the spool are over with the commit of `round`: what was begun and never counted,
// and the updates of the round whose time for audits is over.
Result<std::vector<TaskId>> Engine::spent_tasks(const JobId& id, RoundId round) const {
    std::vector<TaskId> tasks;
    FEDLLM_TRY(const auto parts, ledger_.parts(id, round));
    for (const store::PartRow& part : parts) {
        const bool over =
            part.status != store::PartStatus::Accepted && part.status != store::PartStatus::Asked;
        if (over) tasks.push_back(part.task);
    }
    if (round.get() < options_.retention.updates) return tasks;
    FEDLLM_TRY(const auto counted,
               ledger_.contributions(id, RoundId(back(round, options_.retention.updates))));
    for (const store::PartRow& part : counted) tasks.push_back(part.task);
    return tasks;
}

// What the spool has to keep; uploads cut in the middle stay besides, to be resumed.
Result<std::set<Path>> Engine::counted_updates() const {
    std::set<Path> paths;
    FEDLLM_TRY(const auto rows, ledger_.jobs());
    for (const store::JobRow& row : rows) {
        for (std::uint32_t round = back(row.round, options_.retention.updates); round <= row.round.get();
             ++round) {
            FEDLLM_TRY(const auto counted, ledger_.contributions(row.id, RoundId(round)));
            for (const auto& part : counted) paths.insert(spool_.update_path(part.task, part.update_digest));
        }
    }
    return paths;
}

// A version is on the disk before the ledger names it: a process that dies in between leaves one without a
// row, which nobody makes again where the job is stopped, or the submission was given up.
Result<std::set<Path>> Engine::named_versions() const {
    std::set<Path> paths;
    FEDLLM_TRY(const auto jobs, ledger_.jobs());
    for (const store::JobRow& job : jobs) {
        FEDLLM_TRY(const auto versions, ledger_.versions(job.id));
        for (const store::VersionRow& row : versions) {
            for (const Path& path : versions_.paths_of(row)) paths.insert(path);
        }
    }
    return paths;
}

}  // namespace fedllm::server::engine
