// The exact sum of an open round while its updates arrive, and which contributions are in it. The ledger says
// which ones count; what is missing (all of it after a restart) is added from the spooled bytes.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/codec/codec.hpp"
#include "common/job/job_spec.hpp"
#include "common/tensor/param_set.hpp"
#include "server/aggregate/accumulator.hpp"
#include "server/ingest/spool.hpp"
#include "server/store/rows.hpp"

namespace fedllm::server::engine {

// What a job's updates look like. Who shares: the job and every upload under way, which may outlive it; a
// copy for each would be the manifest of the model a thousand times.
struct JobShape {
    explicit JobShape(tensor::Manifest of) : manifest(std::move(of)), layout(codec::layout_of(manifest)) {}
    tensor::Manifest manifest;
    codec::Layout layout;
};
using SharedShape = std::shared_ptr<const JobShape>;

// What the sum needs of one accepted update.
struct Contribution {
    TaskId task;
    std::string digest;
    std::uint64_t bytes = 0;
    std::uint64_t weight = 0;
    codec::CodecId codec = codec::CodecId::None;
    bool operator==(const Contribution&) const = default;
};
Contribution contribution_of(const store::PartRow& part, const job::JobSpec& job);

// Lifecycle: one per round, or cleared by its only holder and taken for the next. Concurrency: values() and
// add() from any thread; spoil() too; the rest on the control strand.
class RoundSum {
public:
    RoundSum(SharedShape shape, tensor::FixedPoint scale, tensor::SumBits bits)
        : shape_(std::move(shape)), values_(shape_->layout.elements, scale, bits) {}

    aggregate::Accumulator& values() { return values_; }
    const aggregate::Accumulator& values() const { return values_; }
    const JobShape& shape() const { return *shape_; }

    void clear();  // as new

    // Its values were added while they arrived, and stay.
    void count(const Contribution& one) { counted_[one.task] = one; }
    std::uint64_t total_weight() const;

    // What of `all` is to be added still; it counts from now on. Nothing, and the sum is spoilt, when
    // something is counted that is not among them.
    std::optional<std::vector<Contribution>> missing(const std::vector<Contribution>& all);
    // Adds the spooled update. An error spoils the sum, for nobody knows how much of it is in.
    Result<void> add(const Contribution& one, const ingest::Spool& spool);

    // What cannot be withdrawn again makes a sum worthless: it must be made anew from the spool.
    void spoil(Error why);
    bool spoilt() const { return spoilt_; }
    const Error& why_spoilt() const { return why_spoilt_; }  // when nothing is pending

    std::size_t pending = 0;  // additions and withdrawals that run on the pool, for a closing to wait for

private:
    SharedShape shape_;
    aggregate::Accumulator values_;
    std::map<TaskId, Contribution> counted_;
    std::atomic<bool> spoilt_ = false;
    Error why_spoilt_;
};

// Who shares: the job's open round, and the uploads under way whose values are partly in it.
using SharedSum = std::shared_ptr<RoundSum>;

}  // namespace fedllm::server::engine
