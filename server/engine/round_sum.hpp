// The exact sum of an open round while its updates arrive, and which contributions are in it. The ledger says
// which ones count: bring_to() adds what is missing (all of it after a restart), from the spooled bytes.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/codec/codec.hpp"
#include "common/job/job_spec.hpp"
#include "common/tensor/param_set.hpp"
#include "server/aggregate/accumulator.hpp"
#include "server/ingest/spool.hpp"

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

// Concurrency: sum() from any thread, see Accumulator; the rest by one caller at a time, the control strand or
// the one task that it waits for.
class RoundSum {
public:
    RoundSum(SharedShape shape, tensor::FixedPoint scale, tensor::SumBits bits)
        : shape_(std::move(shape)), sum_(shape_->layout.elements, scale, bits) {}

    aggregate::Accumulator& sum() { return sum_; }
    const aggregate::Accumulator& sum() const { return sum_; }
    const JobShape& shape() const { return *shape_; }

    // Its values were added while they arrived, and stay.
    void count(const Contribution& one) { counted_[one.task] = one; }
    std::uint64_t total_weight() const;

    // What could not be withdrawn again makes the sum worthless: it must be made anew.
    void spoil() { spoilt_ = true; }
    bool spoilt() const { return spoilt_; }

    // Adds what of `all` is not in it yet. False when it holds what is not among them, or is spoilt: then only
    // a new sum will do. Errors: those of Spool::open_update and codec::decode.
    Result<bool> bring_to(const std::vector<Contribution>& all, const ingest::Spool& spool);

private:
    SharedShape shape_;
    aggregate::Accumulator sum_;
    std::map<TaskId, Contribution> counted_;
    std::atomic<bool> spoilt_ = false;
};

// Who shares: the job's open round, and the uploads under way whose values are partly in it.
using SharedSum = std::shared_ptr<RoundSum>;

}  // namespace fedllm::server::engine
