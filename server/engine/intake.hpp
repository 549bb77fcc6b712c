// One upload while it arrives: every byte goes to the spool file, through the validator and into the open
// round's sum, so that a bad update is refused at its first bad value, and a good one needs no second reading
// before it is counted. What was added and is not to stay is subtracted again, by reading the spooled bytes.
#pragma once

#include <memory>
#include <optional>
#include <span>

#include "common/base/ids.hpp"
#include "server/engine/round_sum.hpp"
#include "server/ingest/spool.hpp"
#include "server/ingest/upload_memory.hpp"
#include "server/ingest/validate.hpp"

namespace fedllm::server::engine {

struct UploadTarget {
    JobId job;
    RoundId round;
    ClientId client;
    TaskId task;
};

// Which sum an upload goes into, and how often; none for now where `sum` is null.
struct Entry {
    SharedSum sum;
    std::uint64_t weight = 0;
    bool operator==(const Entry&) const = default;
};

// Lifecycle: begin, take until complete, then settle (which makes it durable), enter (to be sure where it is)
// and keep; or discard. Destroyed without keep() it must have been withdrawn. Concurrency: one call at a
// time, from any thread; Engine runs them on the compute pool.
class Intake {
public:
    // Resumes at the bytes that are already on disk, which go into the sum as if they arrived again.
    static Result<std::unique_ptr<Intake>> begin(ingest::Spool& spool, SharedShape shape,
                                                 const ingest::UpdateRules& rules, UploadTarget target,
                                                 ingest::Claim claim, Entry entry);

    // `offset` must be held(): OutOfOrder otherwise. After any error the update is refused for good: every
    // later call says the same and takes nothing.
    Result<void> take(std::uint64_t offset, std::span<const std::byte> bytes);
    bool complete() const { return upload_->held() == upload_->bytes_total(); }
    Result<void> settle();

    // What came and what still comes is in this sum with this weight, and in no other. Where it was so from
    // the start, nothing is to be done; else the spooled bytes are read again.
    Result<void> enter(const Entry& entry);
    // Out of the sum, exactly; bytes that still come are spooled and checked only. Where the disk does not
    // give back what it took, the sum is spoilt.
    void withdraw();
    void keep() { entry_ = {}; }  // counted: the sum is none of its business any more
    void discard();               // withdraws and deletes

    std::uint64_t held() const { return upload_->held(); }
    bool resumed() const { return upload_->resumed(); }  // some bytes are from before a cut
    const Entry& entry() const { return entry_; }
    const UploadTarget& target() const { return target_; }
    const ingest::Claim& claim() const { return claim_; }
    codec::CodecId codec() const { return codec_; }
    const JobShape& shape() const { return *shape_; }

private:
    Intake(SharedShape shape, const ingest::UpdateRules& rules, codec::CodecId codec, UploadTarget target,
           ingest::Claim claim)
        : shape_(std::move(shape)),
          codec_(codec),
          validator_(shape_->manifest, shape_->layout, codec, rules.clip_norm),
          target_(std::move(target)),
          claim_(std::move(claim)) {}

    Result<void> take_next(std::uint64_t offset, std::span<const std::byte> bytes);
    Result<void> feed(std::span<const std::byte> bytes);
    Result<void> add_spooled(std::uint64_t weight);

    SharedShape shape_;
    codec::CodecId codec_;
    ingest::UpdateValidator validator_;
    std::optional<ingest::Upload> upload_;  // set by begin()
    std::uint64_t passed_ = 0;              // elements checked so far
    std::optional<Error> refused_;          // by take()
    Entry entry_;                           // the sum they are in, and those to come
    UploadTarget target_;
    ingest::Claim claim_;
};

}  // namespace fedllm::server::engine
