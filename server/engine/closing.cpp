// The engine's half about closing a round. The sum is there already; what is left is to fix the set of its
// contributions, to take out what is not among them, and to compute the version, which may be sent as soon as
// the ledger has its digest. Its file is synced, and its adapter written, behind that: from the closing on
// the version is a pure function of what is durable, and a start that does not find it computes it again, bit
// for bit. Only a job's good end waits for both, and its stop for the sync, since no start looks again at a
// job that is over.
#include <boost/asio/post.hpp>
#include <cmath>

#include "common/base/rewrite.hpp"
#include "common/log/log.hpp"
#include "common/net/offload.hpp"
#include "server/engine/engine.hpp"

namespace fedllm::server::engine {
namespace {

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

store::VersionRow row_of(const NewVersion& made, const store::VersionRow& base, Timestamp now) {
    store::VersionRow row{made.file.digest, base.job, RoundId(base.round.get() + 1), made.file.bytes, now};
    if (made.step.bytes > 0) row.base_digest = base.digest;
    row.encoded_digest = made.step.digest;
    row.encoded_bytes = made.step.bytes;
    row.residual_digest = made.residual.digest;
    return row;
}

std::vector<Contribution> contributions_of(const std::vector<store::PartRow>& parts,
                                           const job::JobSpec& spec) {
    std::vector<Contribution> all;
    for (const store::PartRow& part : parts) all.push_back(contribution_of(part, spec));
    return all;
}

std::vector<store::PartRow> rows_of(const JobId& job, const std::vector<round::DroppedPart>& dropped) {
    std::vector<store::PartRow> rows;
    for (const auto& [key, reason] : dropped) {
        store::PartRow& row = rows.emplace_back();
        row.job = job;
        row.round = key.round;
        row.client = key.client;
        row.task = store::task_id(job, key.round, key.client);
        row.reason = reason;
    }
    return rows;
}

bool is_damage(const Error& error) {
    return error.code == Errc::NotFound || error.code == Errc::DigestMismatch ||
           error.code == Errc::InvalidFile || error.code == Errc::ManifestMismatch;
}

// What is there of the version, its bytes checked.
Result<RoundBase> intact(const store::VersionRow& row, const store::Versions& versions) {
    FEDLLM_TRY(RoundBase base, map_base(row, versions));
    if (!row.encoded_digest.empty())
        FEDLLM_TRY_VOID(versions.map(store::Attachment::Step, row.encoded_digest));
    return base;
}

}  // namespace

// ------------------------------------------------------------------------------------------------------------
// at the start

// Updates are kept until the version that they made is on the disk.
Result<bool> Engine::keeps_updates_of(const store::VersionRow& version) const {
    if (version.round.get() == 0) return false;
    FEDLLM_TRY(const auto parts, ledger_.contributions(version.job, RoundId(version.round.get() - 1)));
    for (const store::PartRow& part : parts) {
        FEDLLM_TRY(const auto found, disk().find(spool_.update_path(part.task, part.update_digest)));
        if (found) return true;
    }
    return false;
}

// A process that died may have sent a version whose file was not yet on the disk. What is there is synced;
// what is not is computed again from the updates, which are kept until then.
Result<std::optional<RoundBase>> Engine::check_newest(const store::JobRow& row) {
    FEDLLM_TRY(const store::VersionRow newest, ledger_.version(row.id, row.round));
    auto found = intact(newest, versions_);
    if (found) {
        const auto paths = versions_.paths_of(newest);
        FEDLLM_TRY(const bool unsettled, keeps_updates_of(newest));
        for (const Path& path : paths) {
            if (unsettled) FEDLLM_TRY_VOID(write_again(path));
        }
        FEDLLM_TRY_VOID(versions_.sync(paths));
        return std::optional(std::move(*found));
    }
    if (!is_damage(found.error())) return found.error();
    FEDLLM_TRY(const bool reopened, ledger_.reopen_closed(row.id));
    if (reopened) {
        log::warn("the newest version is not on the disk: its round is computed again",
                  {{"job", row.id.get()},
                   {"version", newest.digest.substr(0, 12)},
                   {"reason", found.error().message}});
    }
    return std::optional<RoundBase>();  // else it is the initial one, and the job cannot be taken up
}

SharedSum Engine::make_sum(const SharedShape& shape, const job::JobSpec& spec) {
    const auto scale = job::sum_scale(spec);
    FEDLLM_CHECK(scale.has_value(), "parse_job() has checked it");
    return std::make_shared<RoundSum>(shape, *scale, spec.aggregation.sum_bits);
}

// The sum of the open round, with what the ledger counts in it already: after a restart all that was
// accepted.
void Engine::begin_sum(ActiveJob& job) {
    job.sum.reset();
    if (job.state.phase != round::Phase::Training) return;
    job.sum = job.spare_sum ? std::exchange(job.spare_sum, nullptr) : make_sum(job.shape, job.spec);
    const auto parts = ledger_.contributions(job.id, job.state.round);
    if (!parts) {
        hold(parts.error());
        return;
    }
    add_spooled(job.sum, *job.sum->missing(contributions_of(*parts, job.spec)));
}

void Engine::add_spooled(const SharedSum& sum, const std::vector<Contribution>& missing) {
    for (const Contribution& one : missing) {
        ++sum->pending;
        tasks_.spawn("add from the spool", add_spooled(sum, one));
    }
}

net::awaitable<Result<void>> Engine::add_spooled(SharedSum sum, Contribution one) {
    const auto added = co_await net::offload(compute_, [&] { return sum->add(one, spool_); });
    --sum->pending;
    changed_.cancel();
    co_return added;
}

// A job's adapters are written one at a time: two at once would take the link to the latest from each other,
// and the older one might have it in the end. Where rounds are faster than that, some are never written:
// whoever comes late writes the newest.
net::awaitable<Result<void>> Engine::write_newest_adapter(JobId id) {
    const bool came = co_await until([&] {
        const ActiveJob* const job = find(id);
        return job == nullptr || !job->exporting;
    });
    ActiveJob* const job = came ? find(id) : nullptr;
    if (job == nullptr) co_return Result<void>{};
    job->exporting = true;
    const job::JobSpec spec = job->spec;
    const SharedShape shape = job->shape;
    const RoundBase newest = job->base;
    Result<void> written;
    if (newest.row.round != job->exported) {
        written = co_await net::offload(disk_threads_, [&]() -> Result<void> {
            FEDLLM_TRY_VOID(write_adapter(spec, id, newest.row.round.get(), shape->manifest,
                                          newest.version->bytes(), options_.state_directory));
            return {};
        });
    }
    if (ActiveJob* const still = find(id)) {
        still->exporting = false;
        if (written) still->exported = newest.row.round;
    }
    changed_.cancel();
    co_return written;
}

// The job must not end without the last version's adapter. An earlier version's that comes late writes the
// newest one's, too, which need not be durable yet: then its own settle_version() says that it is delivered.
net::awaitable<Result<void>> Engine::deliver(JobId id) {
    const auto written = co_await write_newest_adapter(id);
    const ActiveJob* const job = find(id);
    if (job == nullptr) co_return written;
    if (!written && job->state.round.get() == job->spec.rounds) give_up(id, written.error());
    if (written && job->durable && job->exported == job->base.row.round) {
        raise(id, round::VersionDelivered{job->exported});
    }
    co_return written;
}

// Where it is our own disk that fails, the job has done nothing wrong: the process ends, and the next one
// finds the round closed, or the version without its adapter, and does it again.
void Engine::give_up(const JobId& id, const Error& error) {
    if (error.code == Errc::IoFailed || error.code == Errc::StoreFailed) {
        hold(error);
    } else {
        raise(id, round::AggregationFailed{to_string(error)});
    }
}

// ------------------------------------------------------------------------------------------------------------
// the closing

net::awaitable<Result<void>> Engine::withdraw(SharedSum sum, Intake& intake,
                                              net::asio::any_io_executor line) {
    co_await net::offload(line, [&] {
        intake.withdraw();
        return true;
    });
    --sum->pending;
    changed_.cancel();
    co_return Result<void>{};
}

// The open round's sum, after what is not among the contributions was withdrawn; or a new one where that
// holds something else.
net::awaitable<Result<SharedSum>> Engine::sum_of(ActiveJob& job, std::vector<Contribution> contributions) {
    const auto make = [shape = job.shape, spec = job.spec] { return make_sum(shape, spec); };
    const JobId id = job.id;
    SharedSum open = std::exchange(job.sum, nullptr);
    if (!open) open = make();
    for (auto& [intake, upload] : uploads_) {
        if (upload.entry.sum != open) continue;
        upload.entry = {};
        ++open->pending;
        tasks_.spawn("withdraw", withdraw(open, *intake, upload.line));
    }
    for (bool fresh = false;; fresh = true) {
        if (const auto missing = open->missing(contributions)) add_spooled(open, *missing);
        if (!co_await until([&] { return open->pending == 0; })) {
            co_return make_error(Errc::Cancelled, "the server is stopping");
        }
        if (!open->spoilt()) co_return open;
        if (fresh) co_return open->why_spoilt();
        log::warn("a round is summed anew from the spool",
                  {{"job", id.get()}, {"reason", to_string(open->why_spoilt())}});
        open = make();
    }
}

// The version is computed from now on, also while the ledger still syncs what closes its round: it is not
// told of before both are done, and not committed where that sync fails.
void Engine::begin_closing(ActiveJob& job, const round::CloseRound& effect) {
    if (!hold(ledger_.close_round(job.id, effect.round, rows_of(job.id, effect.dropped)))) return;
    tasks_.spawn("close round", close_round(job.id, effect.round), [this] { changed_.cancel(); });
}

net::awaitable<Result<void>> Engine::close_round(JobId id, RoundId round) {
    const Result<void> closed = co_await make_version(id, round);
    if (!closed && closed.error().code != Errc::Cancelled) give_up(id, closed.error());
    co_return closed;
}

net::awaitable<Result<void>> Engine::make_version(JobId id, RoundId round) {
    ActiveJob* job = find(id);
    if (job == nullptr || failed_) co_return Result<void>{};
    const job::JobSpec spec = job->spec;
    FEDLLM_CO_TRY(const auto parts, ledger_.contributions(id, round));
    const RoundBase base = job->base;
    const auto contributions = contributions_of(parts, spec);
    FEDLLM_CO_TRY(auto sum, co_await sum_of(*job, contributions));
    auto version = co_await net::offload(compute_, [&]() -> Result<NewVersion> {
        const auto elsewhere = [this](std::function<void()> work) {
            net::asio::post(compute_, std::move(work));
        };
        return compute_version(spec, base, *sum, versions_, {elsewhere, threads_});
    });
    if (!version) co_return version.error();
    job = find(id);
    if (job == nullptr || failed_) co_return Result<void>{};
    if (sum.use_count() == 1) {
        sum->clear();
        job->spare_sum = std::move(sum);
    }
    sum = nullptr;  // before the next round's memory fills
    // With the opening of the next round: one sync.
    if (together([&] { commit(id, round, *version, parts); })) {
        tasks_.spawn("settle version", settle_version(id, round, std::move(version->paths)));
    }
    co_return Result<void>{};
}

void Engine::commit(const JobId& id, RoundId round, const NewVersion& made,
                    const std::vector<store::PartRow>& parts) {
    ActiveJob& job = *find(id);
    const Timestamp now = clock_.now();
    const store::RoundResult result{now, eval_loss_of(parts), train_loss_of(parts)};
    const store::VersionRow next = row_of(made, job.base.row, now);
    if (!hold(ledger_.commit_round(id, round, result, next))) return;
    job.base = {next, made.version_bytes, made.residual_bytes, versions_.path_of(job.base.row.digest)};
    job.durable = false;
    version_cache_[next.digest] = made.version_bytes;
    job.unsent_since = std::exchange(job.last_byte, 0);
    metrics_.round_committed(id, seconds(round::round_time(job.state, now)), parts.size());
    if (!std::isnan(result.eval_loss)) metrics_.evaluated(id, result.eval_loss);
    if (!std::isnan(result.train_loss)) metrics_.trained(id, result.train_loss);
    const auto chain = ledger_.chain(id);
    once_committed([id, round, accepted = parts.size(), result, next, chain = chain ? *chain : ""] {
        log::info("round committed", {{"job", id.get()},
                                      {"round", round.get()},
                                      {"accepted", accepted},
                                      {"eval_loss", result.eval_loss},
                                      {"train_loss", result.train_loss},
                                      {"version", next.digest.substr(0, 12)},
                                      {"step_bytes", next.encoded_bytes},
                                      {"chain", chain}});
    });
    raise(id, round::RoundCommitted{round, next.digest});
}

// Behind the first bytes of the version: its file is brought to the disk. Until that is done the updates it
// was made of, and the residual, are kept.
net::awaitable<Result<void>> Engine::settle_version(JobId id, RoundId round, std::vector<Path> paths) {
    const auto synced = co_await net::offload(disk_threads_, [&] { return versions_.sync(paths); });
    if (!hold(synced)) co_return synced;
    if (ActiveJob* const job = find(id)) job->durable = true;
    changed_.cancel();
    const auto spent = spent_tasks(id, round);
    if (!spent) {
        hold(spent.error());
        co_return spent.error();
    }
    co_await net::offload(disk_threads_, [&] {
        if (auto gone = spool_.remove(*spent); !gone) log::warn("spool", {{"reason", gone.error().message}});
        return true;
    });
    tasks_.spawn("retention", expire(id, Sweep::Recent));
    co_return co_await deliver(id);
}

}  // namespace fedllm::server::engine
