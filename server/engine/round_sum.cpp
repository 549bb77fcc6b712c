#include "server/engine/round_sum.hpp"

#include <algorithm>

namespace fedllm::server::engine {

// A client may always send plain values; anything else that was accepted is in the job's codec.
Contribution contribution_of(const store::PartRow& part, const job::JobSpec& job) {
    const bool plain = part.codec == codec::name(codec::CodecId::None);
    return {part.task, part.update_digest, part.bytes, part.weight,
            plain ? codec::CodecId::None : job.update.codec.id};
}

void RoundSum::clear() {
    values_.clear();
    counted_.clear();
    spoilt_ = false;
    why_spoilt_ = {};
}

std::uint64_t RoundSum::total_weight() const {
    std::uint64_t total = 0;
    for (const auto& [task, one] : counted_) total += one.weight;
    return total;
}

std::optional<std::vector<Contribution>> RoundSum::missing(const std::vector<Contribution>& all) {
    std::vector<Contribution> missing;
    for (const Contribution& one : all) {
        const auto known = counted_.find(one.task);
        if (known == counted_.end() || known->second != one) missing.push_back(one);
    }
    if (all.size() - missing.size() != counted_.size()) {
        spoil({Errc::Internal, "it holds updates that the ledger does not count"});
        return std::nullopt;
    }
    for (const Contribution& one : missing) count(one);
    return missing;
}

Result<void> RoundSum::add(const Contribution& one, const ingest::Spool& spool) {
    const auto read = [&]() -> Result<void> {
        FEDLLM_TRY(const MappedFile update, spool.open_update(one.task, one.digest, one.bytes));
        return codec::decode(one.codec, shape_->layout, update.bytes(),
                             [&](std::uint64_t first, std::span<const float> values) {
                                 values_.add(first, values, one.weight);
                             });
    };
    const auto added = read();
    if (added) return {};
    Error why = with_context(added.error(), "adding " + one.task.get());
    spoil(why);
    return why;
}

void RoundSum::spoil(Error why) {
    if (!spoilt_.exchange(true)) why_spoilt_ = std::move(why);
}

}  // namespace fedllm::server::engine
