#include "client/agent/task.hpp"

#include "common/base/text.hpp"
#include "common/protocol/limits.hpp"
#include "common/protocol/messages.hpp"

namespace fedllm::client::agent {

Result<Task> read_task(const protocol::Task& message, const ClientConfig& config) {
    Task task;
    task.id = TaskId(message.task_id());
    task.kind = message.kind() == protocol::TASK_KIND_EVALUATE ? TaskKind::Evaluate : TaskKind::Train;
    task.job_id = JobId(message.job_id());
    FEDLLM_TRY(task.job, job::parse_job(message.job(), "job " + message.job_id()));
    task.round = RoundId(message.round());
    task.model_digest = message.model_digest();
    task.model_bytes = message.model_bytes();
    task.counted = TaskId(message.counted_task_id());
    for (const protocol::VersionStep& step : message.steps()) {
        task.steps.push_back(
            {step.base_digest(), step.digest(), step.encoded_digest(), step.encoded_bytes()});
    }
    FEDLLM_TRY_VOID(check(task.job, config.policy));
    if (!config.models.contains(task.job.base_model)) {
        return make_error(Errc::PolicyRefused, "the job's base_model is '" + task.job.base_model +
                                                   "', which this client's models section does not list");
    }
    if (task.model_bytes == 0 || task.model_bytes > config.version_bytes_max.bytes) {
        return make_error(Errc::PolicyRefused, "the model version has " + format_bytes(task.model_bytes) +
                                                   ", but this client's version_bytes_max is " +
                                                   format_bytes(config.version_bytes_max.bytes));
    }
    return task;
}

DeclineText decline_text(const Error& error) {
    bool tell = false;
    switch (error.code) {
        case Errc::PolicyRefused:
        case Errc::NotFinite:
        case Errc::InvalidConfig:
        case Errc::InvalidArgument:
        case Errc::ManifestMismatch:
        case Errc::DigestMismatch: tell = true; break;
        default: break;
    }
    DeclineText text{std::string(name(error.code)), std::string(describe(error.code))};
    text.detail = protocol::sendable(tell ? error.message : text.detail + "; see this client's log");
    return text;
}

protocol::ClientMessage to_message(const SendProgress& effect) {
    protocol::ClientMessage message;
    auto& progress = *message.mutable_progress();
    progress.set_task_id(effect.id.get());
    progress.set_step(effect.progress.step);
    progress.set_steps(effect.progress.steps);
    progress.set_loss(effect.progress.loss);
    progress.set_tokens_per_second(effect.progress.tokens_per_second);
    return message;
}

protocol::ClientMessage to_message(const SendOffer& effect) {
    protocol::ClientMessage message;
    auto& offer = *message.mutable_offer();
    offer.set_task_id(effect.id.get());
    offer.set_digest(effect.claim.digest);
    offer.set_bytes(effect.claim.bytes);
    offer.set_samples(effect.claim.samples);
    offer.set_tokens(effect.claim.tokens);
    offer.set_train_loss(effect.claim.train_loss);
    offer.set_train_seconds(effect.claim.train_seconds);
    offer.set_update_norm(effect.claim.update_norm);
    offer.set_codec(effect.claim.codec);
    offer.set_quantisation_error(effect.claim.quantisation_error);
    offer.set_residual_norm(effect.claim.residual_norm);
    auto& evaluation = *offer.mutable_evaluation();
    evaluation.set_task_id(effect.id.get());
    evaluation.set_loss_sum(effect.claim.evaluation.loss_sum);
    evaluation.set_tokens(effect.claim.evaluation.tokens);
    return message;
}

protocol::ClientMessage to_message(const SendEvaluation& effect) {
    protocol::ClientMessage message;
    auto& evaluation = *message.mutable_evaluation();
    evaluation.set_task_id(effect.id.get());
    evaluation.set_loss_sum(effect.evaluation.loss_sum);
    evaluation.set_tokens(effect.evaluation.tokens);
    return message;
}

protocol::ClientMessage to_message(const SendDecline& effect) {
    protocol::ClientMessage message;
    auto& decline = *message.mutable_decline();
    const DeclineText text = decline_text(effect.error);
    decline.set_task_id(effect.id.get());
    decline.set_reason(text.reason);
    decline.set_detail(text.detail);
    return message;
}

}  // namespace fedllm::client::agent
