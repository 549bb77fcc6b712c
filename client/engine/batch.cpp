#include <cstdint>
#include <string>

#include "client/engine/engine.hpp"
#include "kernels/cross_entropy/op.hpp"

namespace fedllm::client::engine {

BatchView BatchView::slice(std::size_t first, std::size_t count) const {
    const std::size_t t = tokens_per_row;
    const auto part = [&](std::span<const std::int32_t> all) { return all.subspan(first * t, count * t); };
    return {count, t, part(tokens), part(targets), part(positions), part(first_key)};
}

Result<void> check_limits(const Network& network, const Limits& limits) {
    if (limits.rows == 0 || limits.tokens_per_row == 0) {
        return make_error(Errc::InvalidArgument, "a micro-batch needs at least one row of one token");
    }
    const model::ModelConfig& config = network.config();
    if (network.has(model::kPositions) && limits.tokens_per_row > config.context) {
        return make_error(Errc::InvalidArgument, "rows of " + std::to_string(limits.tokens_per_row) +
                                                     " tokens: the model has learned positions for " +
                                                     std::to_string(config.context));
    }
    return {};
}

Result<void> check_batch(const Network& network, const Limits& limits, const BatchView& batch) {
    const std::size_t m = batch.rows * batch.tokens_per_row;
    FEDLLM_CHECK(batch.tokens_per_row <= limits.tokens_per_row && m > 0,
                 "the batch must fit the limits given at creation");
    FEDLLM_CHECK(batch.tokens.size() == m && batch.targets.size() == m && batch.positions.size() == m &&
                     batch.first_key.size() == m,
                 "all arrays of a batch have rows * tokens_per_row entries");
    const auto vocab = static_cast<std::int64_t>(network.config().vocab);
    const auto within = [](std::int64_t value, std::int64_t end) { return value >= 0 && value < end; };
    for (std::size_t i = 0; i < m; ++i) {
        const auto t = static_cast<std::int64_t>(i % batch.tokens_per_row);
        const bool target_good = batch.targets[i] == kernels::kIgnoreIndex || within(batch.targets[i], vocab);
        if (within(batch.tokens[i], vocab) && target_good &&
            within(batch.positions[i], static_cast<std::int64_t>(limits.tokens_per_row)) &&
            within(batch.first_key[i], t + 1)) {
            continue;
        }
        return make_error(
            Errc::InvalidData,
            "token " + std::to_string(i) + " of a batch: id " + std::to_string(batch.tokens[i]) +
                ", target " + std::to_string(batch.targets[i]) + ", position " +
                std::to_string(batch.positions[i]) + ", first key " + std::to_string(batch.first_key[i]) +
                "; the model has " + std::to_string(vocab) + " token ids: does the tokenizer belong to it?");
    }
    return {};
}

}  // namespace fedllm::client::engine
