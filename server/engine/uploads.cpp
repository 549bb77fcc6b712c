// The engine's half about updates: Offer, bytes, verdict.
#include "common/log/log.hpp"
#include "common/net/offload.hpp"
#include "server/engine/engine.hpp"

namespace fedllm::server::engine {
namespace {

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

protocol::Verdict outcome(const TaskId& task, protocol::Outcome value) {
    protocol::Verdict verdict;
    verdict.set_task_id(task.get());
    verdict.set_outcome(value);
    return verdict;
}

protocol::Verdict refusal(const TaskId& task, const Error& error) {
    protocol::Verdict verdict = outcome(task, protocol::OUTCOME_REFUSED);
    verdict.set_reason(std::string(name(error.code)));
    verdict.set_detail(error.message.substr(0, protocol::kTextBytesMax));
    return verdict;
}

void post(Link& reply, protocol::Verdict verdict) {
    protocol::ServerMessage message;
    *message.mutable_verdict() = std::move(verdict);
    reply.post(std::move(message));
}

}  // namespace

ingest::UpdateRules Engine::update_rules(const job::JobSpec& spec) {
    return {
        .codec = spec.update.codec.id, .clip_norm = spec.update.clip_norm, .samples_max = spec.samples_max};
}

void Engine::on_evaluation(const ClientId& client, const protocol::Evaluation& evaluation, Link& reply) {
    const TaskId task(evaluation.task_id());
    const auto parsed = parse_task(client, task.get());
    if (!parsed) return post(reply, refusal(task, parsed.error()));
    if (find(parsed->job) == nullptr) return post(reply, refusal(task, {Errc::Stale, "the job is over"}));
    if (auto fine = ingest::check_evaluation(evaluation.loss_sum(), evaluation.tokens()); !fine) {
        return refuse({parsed->job, parsed->round, client, task}, fine.error(), reply);
    }
    post(reply, outcome(task, protocol::OUTCOME_ACCEPTED));
    raise(parsed->job,
          round::EvaluationArrived{client, parsed->round, evaluation.loss_sum(), evaluation.tokens()});
}

// Everything that can be said before a byte is taken; nothing means: take them.
Result<std::optional<protocol::Verdict>> Engine::judge_before_upload(const ClientId& client,
                                                                     const ParsedTask& parsed,
                                                                     const protocol::Offer& offer) {
    const TaskId task(offer.task_id());
    FEDLLM_TRY(const auto part, ledger_.part(parsed.job, parsed.round, client));
    if (part && part->status == store::PartStatus::Accepted) {
        if (part->update_digest == offer.digest()) {
            metrics_.update_repeated(parsed.job);
            return std::optional(outcome(task, protocol::OUTCOME_ALREADY_ACCEPTED));
        }
        const Error again{Errc::Duplicate, "another update of this client is counted in this round already"};
        metrics_.update_refused(parsed.job, again.code);
        return std::optional(refusal(task, again));
    }
    const ActiveJob* const job = find(parsed.job);
    if (job == nullptr) return std::optional(refusal(task, {Errc::Stale, "the job is over"}));
    if (auto admitted = round::admits(job->state, parsed.round, client); !admitted) {
        metrics_.update_refused(parsed.job, admitted.error().code);
        return std::optional(refusal(task, admitted.error()));
    }
    return std::optional<protocol::Verdict>();
}

net::awaitable<std::unique_ptr<Intake>> Engine::on_offer(ClientId client, protocol::Offer offer,
                                                         Link& reply) {
    const TaskId task(offer.task_id());
    const auto parsed = parse_task(client, task.get());
    if (!parsed) {
        post(reply, refusal(task, parsed.error()));
        co_return nullptr;
    }
    const UploadTarget target{parsed->job, parsed->round, client, task};
    auto judged = judge_before_upload(client, *parsed, offer);
    if (!judged) {
        hold(judged.error());
        put_off(target, judged.error(), reply);
        co_return nullptr;
    }
    if (*judged) {
        post(reply, std::move(**judged));
        co_return nullptr;
    }
    const ingest::Claim claim = claim_of(offer);
    const ActiveJob* const job = find(parsed->job);
    const tensor::Manifest manifest = job->manifest;  // copies: the job may end while the pool works
    const ingest::UpdateRules rules = update_rules(job->spec);
    auto fine = ingest::check_claim(claim, rules, manifest);
    if (fine && claim.bytes > options_.upload_bytes_max) {
        fine =
            make_error(Errc::TooLarge, std::to_string(claim.bytes) + " bytes exceed limits.upload_bytes_max");
    }
    if (!fine) {
        refuse(target, fine.error(), reply);
        co_return nullptr;
    }
    auto intake = co_await net::offload(
        compute_, [&] { return Intake::begin(spool_, manifest, rules, target, claim); });
    if (!intake) {
        put_off(target, intake.error(), reply);
        co_return nullptr;
    }
    if (ActiveJob* const still = find(parsed->job)) still->live[client].uploading = true;
    co_return std::move(*intake);
}

net::awaitable<Result<void>> Engine::take(Intake& intake, std::uint64_t offset,
                                          std::span<const std::byte> bytes) {
    metrics_.bytes_moved(intake.target().client, observe::Direction::Up, bytes.size());
    auto taken = co_await net::offload(compute_, [&] { return intake.take(offset, bytes); });
    if (ActiveJob* const job = find(intake.target().job)) {
        job->live[intake.target().client].bytes_up = intake.held();
    }
    co_return taken;
}

net::awaitable<void> Engine::finish_upload(std::unique_ptr<Intake> intake, Link& reply) {
    const auto settled = co_await net::offload(compute_, [&] { return intake->settle(); });
    if (settled) {
        accept(*intake, reply);
    } else {
        co_await refuse_upload(std::move(intake), settled.error(), reply);
    }
}

net::awaitable<void> Engine::refuse_upload(std::unique_ptr<Intake> intake, Error error, Link& reply) {
    // A full disk of ours, or bytes of an earlier attempt that our disk has changed, say nothing about the
    // client.
    const bool our_fault =
        error.code == Errc::IoFailed || (error.code == Errc::DigestMismatch && intake->resumed());
    co_await net::offload(compute_, [&] {
        intake->discard();
        return true;
    });
    if (our_fault) {
        put_off(intake->target(), error, reply);
    } else {
        refuse(intake->target(), error, reply);
    }
}

// No verdict: the client comes back, as after any cut, and offers its update again.
void Engine::put_off(const UploadTarget& target, const Error& error, Link& reply) {
    log::error("cannot take an update now; its client will offer it again",
               {{"task", target.task.get()}, {"reason", to_string(error)}});
    reply.end("the server cannot take the update now; offer it again");
}

// The bytes are on disk. From here to the ledger's commit nothing suspends, so the round cannot close in
// between.
void Engine::accept(const Intake& intake, Link& reply) {
    const UploadTarget& target = intake.target();
    const ingest::Claim& claim = intake.claim();
    ActiveJob* const job = find(target.job);
    if (job == nullptr) {
        return post(reply, refusal(target.task, {Errc::Stale, "the job is over"}));
    }
    if (auto admitted = round::admits(job->state, target.round, target.client); !admitted) {
        metrics_.update_refused(target.job, admitted.error().code);
        return post(reply, refusal(target.task, admitted.error()));
    }
    store::PartRow row;
    row.job = target.job;
    row.round = target.round;
    row.client = target.client;
    row.task = target.task;
    row.status = store::PartStatus::Accepted;
    row.weight = job->spec.weighting == job::Weighting::Samples ? claim.samples : 1;
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
    row.elements = job->manifest.elements();
    row.quantisation_error = claim.quantisation_error;
    row.residual_norm = claim.residual_norm;
    row.accepted = clock_.now();
    row.elapsed = *row.accepted - job->state.clock + job->state.worked;
    if (auto counted = ledger_.accept(row); !counted) {
        if (counted.error().code != Errc::StoreFailed) {
            return post(reply, refusal(target.task, counted.error()));
        }
        hold(counted.error());  // whether it is counted, the next process reads from the disk
        return put_off(target, counted.error(), reply);
    }
    metrics_.update_accepted(target.job);
    const double bf16_bytes = 2.0 * static_cast<double>(job->manifest.elements());
    metrics_.update_compressed(target.job, target.client, bf16_bytes / static_cast<double>(claim.bytes),
                               claim.quantisation_error, claim.residual_norm);
    log::info("update accepted", {{"client", target.client.get()},
                                  {"job", target.job.get()},
                                  {"round", target.round.get()},
                                  {"samples", claim.samples},
                                  {"bytes", claim.bytes},
                                  {"codec", row.codec},
                                  {"train_loss", claim.train_loss},
                                  {"norm", claim.update_norm}});
    post(reply, outcome(target.task, protocol::OUTCOME_ACCEPTED));
    raise(target.job, round::UploadAccepted{target.client, target.round});
}

void Engine::refuse(const UploadTarget& target, const Error& error, Link& reply) {
    metrics_.update_refused(target.job, error.code);
    log::warn("update refused", {{"client", target.client.get()},
                                 {"job", target.job.get()},
                                 {"round", target.round.get()},
                                 {"reason", name(error.code)},
                                 {"detail", error.message}});
    post(reply, refusal(target.task, error));
    raise(target.job,
          round::UploadRefused{target.client, target.round, std::string(name(error.code)), error.message});
}

}  // namespace fedllm::server::engine
