#include "client/train/evaluator.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

namespace fedllm::client::train {
namespace {

using data::Example;
using data::kIgnoreIndex;

// Enough tokens at once for the matrix products to run at speed.
constexpr std::size_t kBatchTokens = 2048;

std::size_t counted(const Example& example) {
    return example.targets.size() -
           static_cast<std::size_t>(std::count(example.targets.begin(), example.targets.end(), kIgnoreIndex));
}

Result<void> check(std::span<const Example> examples, std::size_t longest) {
    for (const Example& example : examples) {
        if (!example.tokens.empty() && example.tokens.size() <= longest) continue;
        return make_error(Errc::InvalidData, "an example has " + std::to_string(example.tokens.size()) +
                                                 " tokens; 1 to " + std::to_string(longest) +
                                                 " are evaluated");
    }
    return {};
}

}  // namespace

Result<Evaluator> Evaluator::create(const model::BaseModel& model, const tensor::Manifest& manifest,
                                    const tensor::LoraScales& scales, std::size_t sequence_length,
                                    kernels::ThreadPool& pool) {
    if (sequence_length == 0 || sequence_length > model.config().context) {
        return make_error(Errc::InvalidArgument, "sequences of " + std::to_string(sequence_length) +
                                                     " tokens: the model's context is " +
                                                     std::to_string(model.config().context));
    }
    FEDLLM_TRY(engine::Network network,
               engine::Network::create(model.config(), model.weights(), manifest, scales));
    engine::Limits limits{std::max<std::size_t>(1, kBatchTokens / sequence_length), sequence_length};
    while (limits.rows > 1 && engine::Transformer::buffer_bytes(network, limits) > Trainer::kBufferBytesMax) {
        --limits.rows;
    }
    FEDLLM_TRY(auto transformer, engine::Transformer::create(pool, std::move(network), limits));
    return Evaluator(std::move(transformer), limits);
}

// One document at the end of the batch; null: padding, which counts for nothing.
void Evaluator::write(const Example* example, std::size_t length) {
    const auto start = static_cast<std::int32_t>(batch_.tokens.size() % limits_.tokens_per_row);
    for (std::size_t i = 0; i < length; ++i) {
        batch_.tokens.push_back(example ? example->tokens[i] : 0);
        batch_.targets.push_back(example ? example->targets[i] : kIgnoreIndex);
        batch_.positions.push_back(static_cast<std::int32_t>(i));
        batch_.first_key.push_back(start);
    }
}

// Puts examples one after another while rows are left, none across two rows. Returns how many.
std::size_t Evaluator::fill(std::span<const Example> examples, std::span<const std::size_t> order) {
    for (auto* all : {&batch_.tokens, &batch_.targets, &batch_.positions, &batch_.first_key}) all->clear();
    const std::size_t width = limits_.tokens_per_row;
    std::size_t done = 0;
    for (; done < order.size(); ++done) {
        const Example& example = examples[order[done]];
        const std::size_t room = width - batch_.tokens.size() % width;
        const std::size_t skip = example.tokens.size() > room ? room : 0;
        if (batch_.tokens.size() + skip + example.tokens.size() > limits_.rows * width) break;
        write(nullptr, skip);
        write(&example, example.tokens.size());
    }
    write(nullptr, (width - batch_.tokens.size() % width) % width);
    batch_.rows = batch_.tokens.size() / width;
    batch_.tokens_per_row = width;
    return done;
}

Result<std::vector<double>> Evaluator::log_likelihoods(const tensor::ParamSet& params,
                                                       std::span<const Example> examples) {
    FEDLLM_TRY_VOID(check(examples, limits_.tokens_per_row));
    std::vector<std::size_t> order(examples.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return examples[a].tokens.size() > examples[b].tokens.size();
    });
    std::vector<double> sums(examples.size(), 0.0);
    for (std::span<const std::size_t> rest = order; !rest.empty();) {
        const auto now = rest.first(fill(examples, rest));
        rest = rest.subspan(now.size());
        const engine::BatchView view{batch_.rows,    batch_.tokens_per_row, batch_.tokens,
                                     batch_.targets, batch_.positions,      batch_.first_key};
        FEDLLM_TRY(const auto result, transformer_.forward_loss(view, params));
        if (!std::isfinite(result.loss_sum)) {
            return make_error(Errc::NotFinite, "the loss on the evaluation data is not finite");
        }
        std::span<const float> losses = transformer_.losses();
        for (const std::size_t index : now) {
            const std::size_t count = counted(examples[index]);
            for (const float loss : losses.first(count)) sums[index] -= loss;
            losses = losses.subspan(count);
        }
    }
    return sums;
}

Result<EvalOutcome> Evaluator::evaluate(const tensor::ParamSet& params, std::span<const Example> examples) {
    FEDLLM_TRY(const auto sums, log_likelihoods(params, examples));
    EvalOutcome outcome;
    for (std::size_t i = 0; i < examples.size(); ++i) {
        outcome.loss_sum -= sums[i];
        outcome.tokens += counted(examples[i]);
    }
    return outcome;
}

}  // namespace fedllm::client::train
