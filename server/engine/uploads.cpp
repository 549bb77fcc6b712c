// The engine's half about updates: Offer, bytes, verdict.
#include <boost/asio/strand.hpp>

#include "common/log/log.hpp"
#include "common/net/channel.hpp"
#include "common/net/offload.hpp"
#include "server/engine/engine.hpp"
#include "server/engine/verdicts.hpp"

namespace fedllm::server::engine {
namespace {

// Of an upload's channel: chunks of the size that our clients send are worked on while the next one arrives,
// which may be as large as any.
constexpr std::uint64_t kReceiveBytes = protocol::FrameLimits{}.chunk_bytes_max +
                                        (net::Channel::kFramesInHandMax - 1) * protocol::Limits{}.chunk_bytes;

ingest::Claim claim_of(const protocol::Offer& offer) {
    ingest::Claim claim;
    claim.digest = offer.digest();
    claim.bytes = offer.bytes();
    claim.samples = offer.samples();
    claim.tokens = offer.tokens();
    claim.train_loss = offer.train_loss();
    claim.train_seconds = offer.train_seconds();
    claim.update_norm = offer.update_norm();
    claim.eval_loss_sum = offer.evaluation().loss_sum();
    claim.eval_tokens = offer.evaluation().tokens();
    claim.codec = offer.codec();
    claim.quantisation_error = offer.quantisation_error();
    claim.residual_norm = offer.residual_norm();
    return claim;
}

}  // namespace

void Engine::say(Link& reply, protocol::Verdict verdict) {
    protocol::ServerMessage message;
    *message.mutable_verdict() = std::move(verdict);
    say(reply, std::move(message));
}

ingest::UpdateRules Engine::update_rules(const job::JobSpec& spec) {
    return {
        .codec = spec.update.codec.id, .clip_norm = spec.update.clip_norm, .samples_max = spec.samples_max};
}

// No verdict before the version it speaks of is on the disk; where that fails, none: the client comes back.
net::awaitable<void> Engine::on_evaluation(ClientId client, protocol::Evaluation evaluation, Link& reply) {
    const TaskId task(evaluation.task_id());
    const auto parsed = parse_task(client, task.get());
    if (!parsed) co_return say(reply, refusal(task, parsed.error()));
    if (!co_await newest_is_durable(parsed->job)) co_return;
    if (find(parsed->job) == nullptr) co_return say(reply, refusal(task, not_under_way(parsed->job)));
    if (auto fine = ingest::check_evaluation(evaluation.loss_sum(), evaluation.tokens()); !fine) {
        co_return refuse({parsed->job, parsed->round, client, task}, fine.error(), reply);
    }
    say(reply, outcome(task, protocol::OUTCOME_ACCEPTED));
    raise(parsed->job,
          round::EvaluationArrived{client, parsed->round, evaluation.loss_sum(), evaluation.tokens()});
}

// Everything that can be said before a byte is taken; nothing means: take them.
Result<std::optional<protocol::Verdict>> Engine::judge_before_upload(const UploadTarget& target,
                                                                     const protocol::Offer& offer) {
    FEDLLM_TRY(const auto part, ledger_.part(target.job, target.round, target.client));
    if (part && part->status == store::PartStatus::Accepted) {
        if (part->update_digest == offer.digest()) {
            metrics_.update_repeated(target.job);
            return std::optional(outcome(target.task, protocol::OUTCOME_ALREADY_ACCEPTED));
        }
        const Error again{Errc::Duplicate, "another update of this client is counted in this round already"};
        metrics_.update_refused(target.job, again.code);
        return std::optional(refusal(target.task, again));
    }
    const ActiveJob* const job = find(target.job);
    if (job == nullptr) return std::optional(refusal(target.task, not_under_way(target.job)));
    if (auto admitted = round::admits(job->state, target.round, target.client); !admitted) {
        metrics_.update_refused(target.job, admitted.error().code);
        return std::optional(refusal(target.task, admitted.error()));
    }
    return std::optional<protocol::Verdict>();
}

// Otherwise it was answered: by a verdict, or, where the ledger failed, by none.
bool Engine::may_upload(const UploadTarget& target, const protocol::Offer& offer, Link& reply) {
    auto judged = judge_before_upload(target, offer);
    if (!judged) {
        hold(judged.error());
        put_off(target, judged.error(), reply);
        return false;
    }
    if (*judged) say(reply, std::move(**judged));
    return !*judged;
}

// Where an update of this job goes now: nowhere while its round may not count it, or while no round is open.
Entry Engine::entry_for(const ActiveJob& job, const UploadTarget& target, const ingest::Claim& claim) const {
    const auto counted_in = round::admits(job.state, target.round, target.client);
    if (!job.sum || !counted_in) return {};
    const std::uint64_t weight = job.spec.weighting == job::Weighting::Samples ? claim.samples : 1;
    const std::uint32_t staleness = counted_in->get() - target.round.get();
    return {job.sum, weight * job::staleness_weight(job.spec.aggregation, staleness)};
}

net::awaitable<UploadUnderWay> Engine::on_offer(ClientId client, protocol::Offer offer, Link& reply) {
    const TaskId task(offer.task_id());
    const auto parsed = parse_task(client, task.get());
    if (!parsed) {
        say(reply, refusal(task, parsed.error()));
        co_return nullptr;
    }
    const UploadTarget target{parsed->job, parsed->round, client, task};
    const auto open = [&] {
        const ActiveJob* const job = find(parsed->job);
        return job == nullptr || !round::withholds(job->state);
    };
    if (!co_await until(open)) co_return nullptr;
    if (!may_upload(target, offer, reply)) co_return nullptr;
    const ingest::Claim claim = claim_of(offer);
    const ActiveJob* job = find(parsed->job);
    const SharedShape shape = job->shape;
    const ingest::UpdateRules rules = update_rules(job->spec);
    auto fine = ingest::check_claim(claim, rules, shape->layout);
    if (fine && claim.bytes > options_.upload_bytes_max) {
        fine =
            make_error(Errc::TooLarge, std::to_string(claim.bytes) + " bytes exceed limits.upload_bytes_max");
    }
    if (!fine) {
        refuse(target, fine.error(), reply);
        co_return nullptr;
    }
    const auto memory = upload_memory_;
    Upload upload{net::asio::make_strand(disk_threads_), {}, {}, monotonic_seconds()};
    const std::uint64_t decoder = codec::decoder_bytes(*ingest::codec_of(claim, rules), shape->layout);
    const std::uint64_t block = std::min<std::uint64_t>(claim.bytes, ingest::kBlockBytes);
    net::Timer granted(strand_);  // its own: with all who wait woken for each, a crowd only wakes itself
    upload.memory = memory->ask(kReceiveBytes + block + decoder, [&] { granted.cancel(); });
    count_upload_memory();
    if (!co_await until([&] { return upload.memory.granted(); }, granted)) co_return nullptr;
    count_upload_memory();
    if (!co_await until(open)) co_return nullptr;
    if (!may_upload(target, offer, reply)) co_return nullptr;  // it may have waited long
    job = find(parsed->job);
    upload.entry = entry_for(*job, target, claim);
    const SharedSum sum = upload.entry.sum;
    if (sum) ++sum->pending;
    auto begun = co_await net::offload(
        upload.line, [&] { return Intake::begin(spool_, shape, rules, target, claim, upload.entry); });
    if (begun) uploads_.emplace(begun->get(), std::move(upload));
    UploadUnderWay intake(begun ? begun->release() : nullptr, {self_});
    if (sum) {
        ActiveJob* const now = find(parsed->job);
        // A closing has looked for uploads to withdraw while this one was none yet.
        if (intake && (now == nullptr || now->sum != sum)) {
            uploads_.at(intake.get()).entry = {};
            co_await net::offload(uploads_.at(intake.get()).line, [&] {
                intake->withdraw();
                return true;
            });
        }
        --sum->pending;
        changed_.cancel();
    }
    if (!begun) {
        put_off(target, begun.error(), reply);
        co_return nullptr;
    }
    if (ActiveJob* const still = find(parsed->job)) still->live[client].uploading = true;
    co_return intake;
}

net::awaitable<Result<void>> Engine::take(Intake& intake, std::uint64_t offset,
                                          std::span<const std::byte> bytes) {
    metrics_.bytes_moved(intake.target().client, observe::Direction::Up, bytes.size());
    uploads_.at(&intake).last_byte = monotonic_seconds();
    auto taken = co_await net::offload(uploads_.at(&intake).line, [&] { return intake.take(offset, bytes); });
    ActiveJob* const job = find(intake.target().job);
    if (taken && job != nullptr) job->live[intake.target().client].bytes_up = offset + bytes.size();
    co_return taken;
}

std::size_t Engine::chunks_in_hand() const {
    const bool crowded = upload_memory_->bytes_in_use() > upload_memory_->bytes_max() / 2;
    return crowded ? 1 : net::Channel::kFramesInHandMax;
}

net::awaitable<void> Engine::finish_upload(UploadUnderWay intake, Link& reply) {
    const auto too_late = [&] {
        const ActiveJob* const job = find(intake->target().job);
        if (job == nullptr) return true;
        return !round::withholds(job->state) &&
               !round::admits(job->state, intake->target().round, intake->target().client);
    };
    if (too_late()) co_return accept(*intake, reply);  // which says so
    const auto settled =
        co_await net::offload(uploads_.at(intake.get()).line, [&] { return intake->settle(); });
    if (!settled && too_late()) {  // its file went with its round
        accept(*intake, reply);
    } else if (!settled) {
        co_await refuse_upload(std::move(intake), settled.error(), reply);
    } else {
        co_await conclude(*intake, reply);
    }
}

net::awaitable<void> Engine::refuse_upload(UploadUnderWay intake, Error error, Link& reply) {
    // A full disk of ours, or bytes of an earlier attempt that our disk has changed, say nothing about the
    // client.
    const bool our_fault =
        error.code == Errc::IoFailed || (error.code == Errc::DigestMismatch && intake->resumed());
    co_await net::offload(uploads_.at(intake.get()).line, [&] {
        intake->discard();
        return true;
    });
    if (our_fault) {
        put_off(intake->target(), error, reply);
    } else {
        refuse(intake->target(), error, reply);
    }
}

void TakeBack::operator()(Intake* intake) const {
    if (const auto still = engine.lock()) {
        (*still)->take_back(intake);
    } else {
        delete intake;
    }
}

// Its last call may still run, and what of it is in a sum has to leave it: on its line, behind that call.
void Engine::take_back(Intake* intake) {
    std::unique_ptr<Intake> owned(intake);
    if (tasks_.stopping()) {
        left_over_.push_back(std::move(owned));
    } else {
        tasks_.spawn("let go", let_go(std::move(owned)));
    }
}

net::awaitable<Result<void>> Engine::let_go(std::unique_ptr<Intake> intake) {
    Upload& upload = uploads_.at(intake.get());
    const SharedSum sum = std::exchange(upload.entry, {}).sum;
    if (sum) ++sum->pending;
    co_await net::offload(upload.line, [&] {
        intake->withdraw();
        return true;
    });
    if (sum) --sum->pending;
    uploads_.erase(intake.get());
    count_upload_memory();
    changed_.cancel();
    co_return Result<void>{};
}

void Engine::count_upload_memory() {
    metrics_.upload_memory(upload_memory_->bytes_in_use(), upload_memory_->waiting());
}

// No verdict: the client comes back, as after any cut, and offers its update again.
void Engine::put_off(const UploadTarget& target, const Error& error, Link& reply) {
    log::error("cannot take an update now; its client will offer it again",
               {{"task", target.task.get()}, {"reason", to_string(error)}});
    reply.end("the server cannot take the update now; offer it again");
}

void Engine::refuse(const UploadTarget& target, const Error& error, Link& reply) {
    metrics_.update_refused(target.job, error.code);
    log::warn("update refused", {{"client", target.client.get()},
                                 {"job", target.job.get()},
                                 {"round", target.round.get()},
                                 {"reason", name(error.code)},
                                 {"detail", error.message}});
    say(reply, refusal(target.task, error));
    raise(target.job,
          round::UploadRefused{target.client, target.round, std::string(name(error.code)), error.message});
}

}  // namespace fedllm::server::engine
