// The engine's half about updates that are on the disk: into the sum of a round that counts them, into the
// ledger, and their verdicts.
#include <algorithm>
#include <boost/asio/post.hpp>

#include "common/log/log.hpp"
#include "common/net/offload.hpp"
#include "server/engine/engine.hpp"
#include "server/engine/verdicts.hpp"

namespace fedllm::server::engine {
namespace {

constexpr std::size_t kCountedTogetherMax = 256;  // clients that wait for nothing else wait for all of these

}  // namespace

// Until the update is in the sum of a round that counts it, and the version that this round starts from is on
// the disk; or until no round will ever count it, which accept() says.
net::awaitable<bool> Engine::place(Intake& intake) {
    while (true) {
        const auto settled = [&] {
            const ActiveJob* const job = find(intake.target().job);
            if (job == nullptr) return true;
            if (round::withholds(job->state)) return false;
            if (!round::admits(job->state, intake.target().round, intake.target().client)) return true;
            return job->sum != nullptr && job->durable;
        };
        if (!co_await until(settled)) co_return false;
        const ActiveJob* const job = find(intake.target().job);
        if (job == nullptr) co_return true;
        const Entry entry = entry_for(*job, intake.target(), intake.claim());
        Upload& upload = uploads_.at(&intake);
        if (!entry.sum || entry == upload.entry) co_return true;
        upload.entry = entry;
        ++entry.sum->pending;
        const auto entered = co_await net::offload(upload.line, [&] { return intake.enter(entry); });
        --entry.sum->pending;
        changed_.cancel();
        if (!entered) co_return false;
    }
}

// Whether place() has nothing to do.
bool Engine::is_placed(Intake& intake) const {
    const ActiveJob* const job = find(intake.target().job);
    if (job == nullptr) return true;
    if (round::withholds(job->state)) return false;
    const Entry entry = entry_for(*job, intake.target(), intake.claim());
    if (!round::admits(job->state, intake.target().round, intake.target().client)) return true;
    return entry.sum && job->durable && entry == uploads_.at(&intake).entry;
}

// Until it has its verdict. What is ready while the ledger syncs an earlier one is counted together.
net::awaitable<void> Engine::conclude(Intake& intake, Link& reply) {
    struct Gone {  // with the connection, maybe
        Settled& one;
        ~Gone() { one.intake = nullptr; }
    };
    while (co_await place(intake)) {
        const auto one = std::make_shared<Settled>(intake, reply, strand_);
        const Gone gone{*one};
        settled_.push_back(one);
        if (settled_.size() == 1) count_settled_soon();
        const bool counted = co_await until([&] { return one->answer != Settled::Answer::None; }, one->bell);
        if (one->answer == Settled::Answer::Given) co_return;
        if (!counted) break;
    }
    put_off(intake.target(), {Errc::Cancelled, "it could not be added to the round's sum"}, reply);
}

// Behind all that is ready to run now, which may settle others.
void Engine::count_settled_soon() {
    net::asio::post(strand_, [engine = std::weak_ptr(self_)] {
        if (const auto still = engine.lock()) (*still)->count_settled();
    });
}

void Engine::count_settled() {
    const std::size_t count = std::min(settled_.size(), kCountedTogetherMax);
    const std::vector<std::shared_ptr<Settled>> some(settled_.begin(),
                                                     settled_.begin() + static_cast<std::ptrdiff_t>(count));
    settled_.erase(settled_.begin(), settled_.begin() + static_cast<std::ptrdiff_t>(count));
    const bool done = together([&] {
        for (const auto& one : some) {
            if (!one->intake || failed_) continue;
            const bool placed = is_placed(*one->intake);  // one before it may have closed the round
            one->answer = placed ? Settled::Answer::Given : Settled::Answer::NotNow;
            if (placed) accept(*one->intake, *one->reply);
        }
    });
    for (const auto& one : some) {
        if (!done && one->intake) {
            // Whether it is counted, the next process reads from the disk.
            one->answer = Settled::Answer::Given;
            put_off(one->intake->target(), {Errc::StoreFailed, "the ledger has failed"}, *one->reply);
        }
        one->bell.cancel();
    }
    if (!settled_.empty()) count_settled_soon();
}

// The bytes are on disk, and in the sum.
void Engine::accept(Intake& intake, Link& reply) {
    const UploadTarget& target = intake.target();
    const ingest::Claim& claim = intake.claim();
    ActiveJob* const job = find(target.job);
    if (job == nullptr) {
        return say(reply, refusal(target.task, {Errc::Stale, "the job is over"}));
    }
    const auto admitted = round::admits(job->state, target.round, target.client);
    if (!admitted) {
        metrics_.update_refused(target.job, admitted.error().code);
        return say(reply, refusal(target.task, admitted.error()));
    }
    store::PartRow row;
    row.job = target.job;
    row.round = target.round;
    row.client = target.client;
    row.task = target.task;
    row.status = store::PartStatus::Accepted;
    row.weight = uploads_.at(&intake).entry.weight;
    row.samples = claim.samples;
    row.tokens = claim.tokens;
    row.update_digest = claim.digest;
    row.bytes = claim.bytes;
    row.bytes_down = job->live[target.client].bytes_down;
    row.train_loss = claim.train_loss;
    row.train_seconds = claim.train_seconds;
    row.eval_loss_sum = claim.eval_loss_sum;
    row.eval_tokens = claim.eval_tokens;
    row.codec = codec::name(intake.codec());
    row.elements = job->shape->manifest.elements();
    row.quantisation_error = claim.quantisation_error;
    row.residual_norm = claim.residual_norm;
    row.counted = *admitted;
    row.accepted = clock_.now();
    row.elapsed = round::time_taken(job->state, target.round, target.client, *row.accepted);
    count(intake, row, reply);
}

void Engine::count(Intake& intake, const store::PartRow& row, Link& reply) {
    const UploadTarget& target = intake.target();
    const auto counted = ledger_.accept(row);
    if (!counted) {
        if (counted.error().code == Errc::StoreFailed) return void(hold(counted.error()));
        return say(reply, refusal(target.task, counted.error()));
    }
    if (*counted ==
        store::Acceptance::AlreadyCounted) {  // by another connection, with its own bytes in the sum
        return say(reply, outcome(target.task, protocol::OUTCOME_ALREADY_ACCEPTED));
    }
    const ingest::Claim& claim = intake.claim();
    ActiveJob& job = *find(target.job);
    job.sum->count(contribution_of(row, job.spec));
    intake.keep();
    Upload& upload = uploads_.at(&intake);
    upload.entry = {};
    job.last_byte = std::max(job.last_byte, upload.last_byte);
    metrics_.update_accepted(target.job);
    const double bf16_bytes = 2.0 * static_cast<double>(row.elements);
    metrics_.update_compressed(target.job, target.client, bf16_bytes / static_cast<double>(claim.bytes),
                               claim.quantisation_error, claim.residual_norm);
    once_committed([row, norm = claim.update_norm] {
        log::info("update accepted", {{"client", row.client.get()},
                                      {"job", row.job.get()},
                                      {"round", row.round.get()},
                                      {"samples", row.samples},
                                      {"bytes", row.bytes},
                                      {"codec", row.codec},
                                      {"train_loss", row.train_loss},
                                      {"norm", norm}});
    });
    say(reply, outcome(target.task, protocol::OUTCOME_ACCEPTED));
    raise(target.job, round::UploadAccepted{target.client, target.round});
}

}  // namespace fedllm::server::engine
