// One upload while it arrives: every byte goes to the spool file and through the validator, so that a bad
// update is refused at its first bad value, and a good one needs no second reading before it is acknowledged.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "common/base/ids.hpp"
#include "common/tensor/param_set.hpp"
#include "server/ingest/spool.hpp"
#include "server/ingest/validate.hpp"

namespace fedllm::server::engine {

struct UploadTarget {
    JobId job;
    RoundId round;
    ClientId client;
    TaskId task;
};

// Lifecycle: begin, take until complete, then settle (which makes it durable) or discard.
// Concurrency: one call at a time, from any thread; Engine runs them on the compute pool.
class Intake {
public:
    // Resumes at the bytes that are already on disk.
    static Result<std::unique_ptr<Intake>> begin(ingest::Spool& spool, const tensor::Manifest& manifest,
                                                 const ingest::UpdateRules& rules, UploadTarget target,
                                                 ingest::Claim claim);

    // `offset` must be held(): OutOfOrder otherwise. After any error the update is refused for good.
    Result<void> take(std::uint64_t offset, std::span<const std::byte> bytes);
    bool complete() const { return upload_->held() == upload_->bytes_total(); }
    Result<void> settle();
    void discard();

    std::uint64_t held() const { return upload_->held(); }
    bool resumed() const { return upload_->resumed(); }  // some bytes are from before a cut
    const UploadTarget& target() const { return target_; }
    const ingest::Claim& claim() const { return claim_; }
    codec::CodecId codec() const { return codec_; }

private:
    Intake(const tensor::Manifest& manifest, const ingest::UpdateRules& rules, codec::CodecId codec,
           UploadTarget target, ingest::Claim claim)
        : manifest_(manifest),
          codec_(codec),
          validator_(manifest_, codec, rules.clip_norm),
          target_(std::move(target)),
          claim_(std::move(claim)) {}

    tensor::Manifest manifest_;  // its own: the job may end while the upload is on the pool
    codec::CodecId codec_;
    ingest::UpdateValidator validator_;
    std::optional<ingest::Upload> upload_;  // set by begin()
    UploadTarget target_;
    ingest::Claim claim_;
};

}  // namespace fedllm::server::engine
