#include "server/engine/intake.hpp"

#include "common/log/log.hpp"

namespace fedllm::server::engine {

Result<std::unique_ptr<Intake>> Intake::begin(ingest::Spool& spool, const tensor::Manifest& manifest,
                                              const ingest::UpdateRules& rules, UploadTarget target,
                                              ingest::Claim claim) {
    FEDLLM_TRY(const codec::CodecId codec, ingest::codec_of(claim, rules));
    std::unique_ptr<Intake> intake(new Intake(manifest, rules, codec, std::move(target), std::move(claim)));
    const auto replay = [&intake](std::span<const std::byte> bytes) -> Result<void> {
        FEDLLM_TRY_VOID(intake->validator_.feed(bytes));
        return {};
    };
    FEDLLM_TRY(intake->upload_,
               spool.begin(intake->target_.task, intake->claim_.digest, intake->claim_.bytes, replay));
    return intake;
}

Result<void> Intake::take(std::uint64_t offset, std::span<const std::byte> bytes) {
    if (offset != upload_->held()) {
        return make_error(Errc::OutOfOrder, "chunk at byte " + std::to_string(offset) + ", expected byte " +
                                                std::to_string(upload_->held()));
    }
    FEDLLM_TRY_VOID(validator_.feed(bytes));
    return upload_->append(bytes);
}

Result<void> Intake::settle() {
    FEDLLM_TRY_VOID(validator_.finish());
    return upload_->commit();
}

void Intake::discard() {
    if (auto gone = upload_->discard(); !gone) {
        log::warn("a refused upload stays in the spool until the next start",
                  {{"task", target_.task.get()}, {"reason", gone.error().message}});
    }
}

}  // namespace fedllm::server::engine
