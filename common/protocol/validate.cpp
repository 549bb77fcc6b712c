#include "common/protocol/validate.hpp"

#include <cmath>
#include <string>
#include <string_view>

#include "common/protocol/limits.hpp"

namespace fedllm::protocol {
namespace {

Error malformed(std::string_view field, const std::string& what) {
    return make_error(Errc::Malformed, std::string(field) + ": " + what);
}

Result<void> check_text(std::string_view field, const std::string& value,
                        std::size_t bytes_max = kTextBytesMax) {
    if (value.size() <= bytes_max) return {};
    return malformed(field,
                     std::to_string(value.size()) + " bytes, the limit is " + std::to_string(bytes_max));
}

// Protobuf has checked that strings are UTF-8.
Result<void> check_name_or_empty(std::string_view field, const std::string& value) {
    FEDLLM_TRY_VOID(check_text(field, value, kNameBytesMax));
    for (const char c : value) {
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
            return malformed(field, "control character in a name");
    }
    return {};
}

Result<void> check_name(std::string_view field, const std::string& value) {
    if (value.empty()) return malformed(field, "missing");
    return check_name_or_empty(field, value);
}

Result<void> check_digest(std::string_view field, const std::string& value) {
    const bool hex = value.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (hex && value.size() == 64) return {};
    return malformed(field, "expected 64 lower-case hexadecimal digits (SHA-256)");
}

Result<void> check_job_text(std::string_view field, const std::string& value) {
    if (value.empty()) return malformed(field, "missing");
    return check_text(field, value, kJobBytesMax);
}

Result<void> check_size(std::string_view field, std::uint64_t bytes) {
    if (bytes > 0) return {};
    return malformed(field, "must be more than 0 bytes");
}

Result<void> check_finite(std::string_view field, double value) {
    if (std::isfinite(value)) return {};
    return make_error(Errc::NotFinite, std::string(field) + " is " + std::to_string(value));
}

Result<void> check_not_negative(std::string_view field, double value) {
    FEDLLM_TRY_VOID(check_finite(field, value));
    if (value >= 0) return {};
    return malformed(field, "must not be negative");
}

// --- client -> server

Result<void> check(const Hello& m) {
    if (m.protocol_version() == 0) return malformed("Hello.protocol_version", "missing");
    FEDLLM_TRY_VOID(check_name_or_empty("Hello.software", m.software()));
    FEDLLM_TRY_VOID(check_name_or_empty("Hello.device", m.device()));
    if (static_cast<std::size_t>(m.base_models_size()) > kBaseModelsMax) {
        return malformed("Hello.base_models", "more than " + std::to_string(kBaseModelsMax));
    }
    for (const auto& base : m.base_models()) FEDLLM_TRY_VOID(check_name("Hello.base_models", base));
    if (static_cast<std::size_t>(m.codecs_size()) > kCodecsMax) {
        return malformed("Hello.codecs", "more than " + std::to_string(kCodecsMax));
    }
    for (const auto& codec : m.codecs()) FEDLLM_TRY_VOID(check_name("Hello.codecs", codec));
    return {};
}

Result<void> check(const Fetch& m) {
    FEDLLM_TRY_VOID(check_digest("Fetch.digest", m.digest()));
    return check_name_or_empty("Fetch.task_id", m.task_id());
}

Result<void> check(const Progress& m) {
    FEDLLM_TRY_VOID(check_name("Progress.task_id", m.task_id()));
    FEDLLM_TRY_VOID(check_finite("Progress.loss", m.loss()));
    return check_not_negative("Progress.tokens_per_second", m.tokens_per_second());
}

Result<void> check(const Evaluation& m) {
    FEDLLM_TRY_VOID(check_name("Evaluation.task_id", m.task_id()));
    return check_finite("Evaluation.loss_sum", m.loss_sum());
}

Result<void> check(const Offer& m) {
    FEDLLM_TRY_VOID(check_name("Offer.task_id", m.task_id()));
    FEDLLM_TRY_VOID(check_digest("Offer.digest", m.digest()));
    FEDLLM_TRY_VOID(check_size("Offer.bytes", m.bytes()));
    FEDLLM_TRY_VOID(check_finite("Offer.train_loss", m.train_loss()));
    FEDLLM_TRY_VOID(check_not_negative("Offer.train_seconds", m.train_seconds()));
    FEDLLM_TRY_VOID(check_not_negative("Offer.update_norm", m.update_norm()));
    FEDLLM_TRY_VOID(check_name_or_empty("Offer.codec", m.codec()));
    FEDLLM_TRY_VOID(check_not_negative("Offer.quantisation_error", m.quantisation_error()));
    FEDLLM_TRY_VOID(check_not_negative("Offer.residual_norm", m.residual_norm()));
    if (!m.has_evaluation()) return {};
    if (!m.evaluation().task_id().empty() && m.evaluation().task_id() != m.task_id()) {
        return malformed("Offer.evaluation.task_id", "differs from Offer.task_id");
    }
    return check_finite("Offer.evaluation.loss_sum", m.evaluation().loss_sum());
}

Result<void> check(const Decline& m) {
    FEDLLM_TRY_VOID(check_name("Decline.task_id", m.task_id()));
    FEDLLM_TRY_VOID(check_name("Decline.reason", m.reason()));
    return check_text("Decline.detail", m.detail());
}

Result<void> check(const Goodbye& m) { return check_text("Goodbye.reason", m.reason()); }

Result<void> check(const SubmitJob& m) {
    FEDLLM_TRY_VOID(check_job_text("SubmitJob.job", m.job()));
    FEDLLM_TRY_VOID(check_digest("SubmitJob.initial_digest", m.initial_digest()));
    return check_size("SubmitJob.initial_bytes", m.initial_bytes());
}

Result<void> check(const ShowJob& m) {
    FEDLLM_TRY_VOID(check_name("ShowJob.job_id", m.job_id()));
    return check_name_or_empty("ShowJob.after_client", m.after_client());
}

Result<void> check(const ControlJob& m) {
    FEDLLM_TRY_VOID(check_name("ControlJob.job_id", m.job_id()));
    if (m.action() == JOB_ACTION_UNSPECIFIED || !JobAction_IsValid(m.action())) {
        return malformed("ControlJob.action", "unknown action " + std::to_string(m.action()));
    }
    return check_text("ControlJob.cause", m.cause(), kCauseBytesMax);
}

Result<void> check(const Why& m) { return check_name("Why.subject", m.subject()); }

Result<void> check(const AuditJob& m) { return check_name("AuditJob.job_id", m.job_id()); }

// --- server -> client

Result<void> check(const Welcome& m) {
    FEDLLM_TRY_VOID(check_name("Welcome.peer_name", m.peer_name()));
    return check_name_or_empty("Welcome.software", m.software());
}

// Each step begins where the one before ended, and the last one leads to the task's version.
Result<void> check_steps(const Task& m) {
    if (static_cast<std::size_t>(m.steps_size()) > kVersionStepsMax) {
        return malformed("Task.steps", "more than " + std::to_string(kVersionStepsMax));
    }
    for (int i = 0; i < m.steps_size(); ++i) {
        const VersionStep& step = m.steps(i);
        FEDLLM_TRY_VOID(check_digest("VersionStep.base_digest", step.base_digest()));
        FEDLLM_TRY_VOID(check_digest("VersionStep.digest", step.digest()));
        FEDLLM_TRY_VOID(check_digest("VersionStep.encoded_digest", step.encoded_digest()));
        FEDLLM_TRY_VOID(check_size("VersionStep.encoded_bytes", step.encoded_bytes()));
        const bool last = i + 1 == m.steps_size();
        if (step.digest() != (last ? m.model_digest() : m.steps(i + 1).base_digest())) {
            return malformed("Task.steps",
                             "step " + std::to_string(i) + " does not lead to the next version");
        }
    }
    return {};
}

Result<void> check(const Task& m) {
    FEDLLM_TRY_VOID(check_name("Task.task_id", m.task_id()));
    FEDLLM_TRY_VOID(check_name_or_empty("Task.counted_task_id", m.counted_task_id()));
    if (m.kind() != TASK_KIND_TRAIN && m.kind() != TASK_KIND_EVALUATE) {
        return malformed("Task.kind", "unknown kind " + std::to_string(m.kind()));
    }
    FEDLLM_TRY_VOID(check_name("Task.job_id", m.job_id()));
    FEDLLM_TRY_VOID(check_job_text("Task.job", m.job()));
    FEDLLM_TRY_VOID(check_digest("Task.model_digest", m.model_digest()));
    FEDLLM_TRY_VOID(check_size("Task.model_bytes", m.model_bytes()));
    return check_steps(m);
}

Result<void> check(const Proceed& m) { return check_name_or_empty("Proceed.task_id", m.task_id()); }

Result<void> check(const Verdict& m) {
    FEDLLM_TRY_VOID(check_name("Verdict.task_id", m.task_id()));
    if (m.outcome() == OUTCOME_UNSPECIFIED || !Outcome_IsValid(m.outcome())) {
        return malformed("Verdict.outcome", "unknown outcome " + std::to_string(m.outcome()));
    }
    if (m.outcome() == OUTCOME_REFUSED) FEDLLM_TRY_VOID(check_name("Verdict.reason", m.reason()));
    FEDLLM_TRY_VOID(check_name_or_empty("Verdict.reason", m.reason()));
    return check_text("Verdict.detail", m.detail());
}

Result<void> check(const Release& m) {
    FEDLLM_TRY_VOID(check_name("Release.task_id", m.task_id()));
    return check_text("Release.reason", m.reason());
}

Result<void> check(const JobAccepted& m) { return check_name("JobAccepted.job_id", m.job_id()); }

Result<void> check(const JobSummary& m) {
    FEDLLM_TRY_VOID(check_name("JobSummary.job_id", m.job_id()));
    FEDLLM_TRY_VOID(check_name_or_empty("JobSummary.name", m.name()));
    FEDLLM_TRY_VOID(check_name_or_empty("JobSummary.state", m.state()));
    if (!m.model_digest().empty()) FEDLLM_TRY_VOID(check_digest("JobSummary.model_digest", m.model_digest()));
    FEDLLM_TRY_VOID(check_name_or_empty("JobSummary.waiting_reason", m.waiting_reason()));
    FEDLLM_TRY_VOID(check_name_or_empty("JobSummary.chain", m.chain()));
    FEDLLM_TRY_VOID(check_text("JobSummary.cause", m.cause()));
    return check_text("JobSummary.waiting_for", m.waiting_for());
}

Result<void> check(const JobControlled& m) { return check(m.summary()); }

Result<void> check(const Because& m) {
    FEDLLM_TRY_VOID(check_name_or_empty("Because.reason", m.reason()));
    return check_text("Because.sentence", m.sentence());
}

Result<void> check(const AuditRound& m) {
    FEDLLM_TRY_VOID(check_digest("AuditRound.base_digest", m.base_digest()));
    FEDLLM_TRY_VOID(check_digest("AuditRound.next_digest", m.next_digest()));
    FEDLLM_TRY_VOID(check_name("AuditRound.chain", m.chain()));
    for (const auto& contribution : m.contributions()) {
        FEDLLM_TRY_VOID(check_name("AuditContribution.client", contribution.client()));
        FEDLLM_TRY_VOID(check_digest("AuditContribution.digest", contribution.digest()));
        FEDLLM_TRY_VOID(check_name_or_empty("AuditContribution.codec", contribution.codec()));
    }
    return {};
}

Result<void> check(const AuditRows& m) {
    FEDLLM_TRY_VOID(check_name("AuditRows.job_id", m.job_id()));
    FEDLLM_TRY_VOID(check_text("AuditRows.job", m.job(), kJobBytesMax));
    FEDLLM_TRY_VOID(check_digest("AuditRows.initial_digest", m.initial_digest()));
    FEDLLM_TRY_VOID(check_digest("AuditRows.model_digest", m.model_digest()));
    FEDLLM_TRY_VOID(check_name("AuditRows.chain", m.chain()));
    for (const auto& round : m.rounds()) FEDLLM_TRY_VOID(check(round));
    return {};
}

Result<void> check(const JobList& m) {
    for (const auto& job : m.jobs()) FEDLLM_TRY_VOID(check(job));
    return {};
}

// The losses may be NaN here: nobody has reported yet.
Result<void> check(const RoundReport& m) {
    FEDLLM_TRY_VOID(check_name_or_empty("RoundReport.state", m.state()));
    for (const auto& part : m.parts()) {
        FEDLLM_TRY_VOID(check_name("Part.client", part.client()));
        FEDLLM_TRY_VOID(check_name_or_empty("Part.state", part.state()));
        FEDLLM_TRY_VOID(check_text("Part.detail", part.detail()));
    }
    return {};
}

Result<void> check(const JobReport& m) {
    FEDLLM_TRY_VOID(check(m.summary()));
    FEDLLM_TRY_VOID(check_text("JobReport.job", m.job(), kJobBytesMax));
    for (const auto& round : m.rounds()) FEDLLM_TRY_VOID(check(round));
    return check_text("JobReport.adapter_path", m.adapter_path());
}

Result<void> check(const Refusal& m) {
    FEDLLM_TRY_VOID(check_name("Refusal.reason", m.reason()));
    return check_text("Refusal.detail", m.detail());
}

Result<void> check(const Blob& m) {
    FEDLLM_TRY_VOID(check_digest("Blob.digest", m.digest()));
    return check_size("Blob.bytes", m.bytes());
}

}  // namespace

Result<void> validate(const ClientMessage& m) {
    switch (m.body_case()) {
        case ClientMessage::kHello: return check(m.hello());
        case ClientMessage::kFetch: return check(m.fetch());
        case ClientMessage::kProgress: return check(m.progress());
        case ClientMessage::kOffer: return check(m.offer());
        case ClientMessage::kEvaluation: return check(m.evaluation());
        case ClientMessage::kDecline: return check(m.decline());
        case ClientMessage::kPing: return {};
        case ClientMessage::kGoodbye: return check(m.goodbye());
        case ClientMessage::kSubmitJob: return check(m.submit_job());
        case ClientMessage::kListJobs: return {};
        case ClientMessage::kShowJob: return check(m.show_job());
        case ClientMessage::kControlJob: return check(m.control_job());
        case ClientMessage::kWhy: return check(m.why());
        case ClientMessage::kAuditJob: return check(m.audit_job());
        case ClientMessage::BODY_NOT_SET: break;
    }
    return malformed("ClientMessage.body", "not set, or of a kind that this version does not know");
}

Result<void> validate(const ServerMessage& m) {
    switch (m.body_case()) {
        case ServerMessage::kWelcome: return check(m.welcome());
        case ServerMessage::kTask: return check(m.task());
        case ServerMessage::kProceed: return check(m.proceed());
        case ServerMessage::kVerdict: return check(m.verdict());
        case ServerMessage::kRelease: return check(m.release());
        case ServerMessage::kPing: return {};
        case ServerMessage::kGoodbye: return check(m.goodbye());
        case ServerMessage::kJobAccepted: return check(m.job_accepted());
        case ServerMessage::kJobList: return check(m.job_list());
        case ServerMessage::kJobReport: return check(m.job_report());
        case ServerMessage::kRefusal: return check(m.refusal());
        case ServerMessage::kBlob: return check(m.blob());
        case ServerMessage::kJobControlled: return check(m.job_controlled());
        case ServerMessage::kBecause: return check(m.because());
        case ServerMessage::kAuditRows: return check(m.audit_rows());
        case ServerMessage::BODY_NOT_SET: break;
    }
    return malformed("ServerMessage.body", "not set, or of a kind that this version does not know");
}

}  // namespace fedllm::protocol
