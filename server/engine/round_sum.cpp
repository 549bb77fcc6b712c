#include "server/engine/round_sum.hpp"

#include <algorithm>

namespace fedllm::server::engine {

std::uint64_t RoundSum::total_weight() const {
    std::uint64_t total = 0;
    for (const auto& [task, one] : counted_) total += one.weight;
    return total;
}

Result<bool> RoundSum::bring_to(const std::vector<Contribution>& all, const ingest::Spool& spool) {
    std::size_t already = 0;
    for (const Contribution& one : all) {
        const auto known = counted_.find(one.task);
        if (known == counted_.end()) continue;
        if (known->second != one) return false;
        ++already;
    }
    if (already != counted_.size() || spoilt_) return false;
    for (const Contribution& one : all) {
        if (counted_.contains(one.task)) continue;
        const auto add = [&]() -> Result<void> {
            FEDLLM_TRY(const MappedFile update, spool.open_update(one.task, one.digest, one.bytes));
            return codec::decode(one.codec, shape_->layout, update.bytes(),
                                 [&](std::uint64_t first, std::span<const float> values) {
                                     sum_.add(first, values, one.weight);
                                 });
        };
        if (auto added = add(); !added) {
            spoil();  // a part of it may be in
            return with_context(added.error(), "adding " + one.task.get());
        }
        counted_[one.task] = one;
    }
    return true;
}

}  // namespace fedllm::server::engine
