#include "client/train/evaluator.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "client/engine/cpu_engine.hpp"

namespace fedllm::client::train {
namespace {

using data::Example;
using data::kIgnoreIndex;

// Enough tokens at once for the matrix products to run at speed.
constexpr std::size_t kBatchTokens = 2048;
constexpr std::size_t kLogitRowsMax = 64;  // that exist at once

std::size_t counted(const Example& example) {
    return example.targets.size() -
           static_cast<std::size_t>(std::count(example.targets.begin(), example.targets.end(), kIgnoreIndex));
}

bool counts_last_alone(const Example& example) {
    return !example.targets.empty() && example.targets.back() != kIgnoreIndex && counted(example) == 1;
}

double log_sum_exp(std::span<const float> values) {
    const double largest = *std::max_element(values.begin(), values.end());
    double sum = 0;
    for (const float value : values) sum += std::exp(value - largest);
    return largest + std::log(sum);
}

Result<void> check(std::span<const Example> examples, std::size_t longest, std::size_t vocab) {
    for (const Example& example : examples) {
        if (example.tokens.empty() || example.tokens.size() > longest ||
            example.targets.size() != example.tokens.size()) {
            return make_error(Errc::InvalidData, "an example has " + std::to_string(example.tokens.size()) +
                                                     " tokens; 1 to " + std::to_string(longest) +
                                                     " are evaluated, each with a target");
        }
        for (const std::int32_t target : example.targets) {
            if (target == kIgnoreIndex || (target >= 0 && static_cast<std::size_t>(target) < vocab)) continue;
            return make_error(Errc::InvalidData, "target " + std::to_string(target) + ": the model has " +
                                                     std::to_string(vocab) +
                                                     " token ids; does the tokenizer belong to it?");
        }
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
    while (limits.rows > 1 &&
           engine::Transformer::buffer_bytes(network, limits) > engine::CpuBackend::kBufferBytesMax) {
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
std::size_t Evaluator::fill(std::span<const Example> examples, Order order) {
    ends_.clear();
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
        ends_.push_back(static_cast<std::int32_t>(batch_.tokens.size() - 1));
    }
    write(nullptr, (width - batch_.tokens.size() % width) % width);
    batch_.rows = batch_.tokens.size() / width;
    batch_.tokens_per_row = width;
    return done;
}

engine::BatchView Evaluator::view() const {
    return {batch_.rows,    batch_.tokens_per_row, batch_.tokens,
            batch_.targets, batch_.positions,      batch_.first_key};
}

Result<std::vector<double>> Evaluator::log_likelihoods(const tensor::ParamSet& params,
                                                       std::span<const Example> examples) {
    FEDLLM_TRY_VOID(check(examples, limits_.tokens_per_row, transformer_.network().config().vocab));
    std::vector<std::size_t> order(examples.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return examples[a].tokens.size() > examples[b].tokens.size();
    });
    std::vector<std::size_t> apart;
    std::vector<Order> groups;
    for (Order rest = order; !rest.empty();) {
        const Example& first = examples[rest.front()];
        const auto other = std::find_if(rest.begin() + 1, rest.end(), [&](std::size_t index) {
            return examples[index].tokens != first.tokens || !counts_last_alone(examples[index]);
        });
        const Order run = rest.first(static_cast<std::size_t>(other - rest.begin()));
        rest = rest.subspan(run.size());
        if (run.size() > 1 && counts_last_alone(first)) {
            groups.push_back(run);
        } else {
            apart.insert(apart.end(), run.begin(), run.end());
        }
    }
    std::vector<double> sums(examples.size(), 0.0);
    FEDLLM_TRY_VOID(score_apart(params, examples, apart, sums));
    FEDLLM_TRY_VOID(score_shared(params, examples, groups, sums));
    if (std::all_of(sums.begin(), sums.end(), [](double sum) { return std::isfinite(sum); })) return sums;
    return make_error(Errc::NotFinite, "the loss on the evaluation data is not finite");
}

Result<void> Evaluator::score_apart(const tensor::ParamSet& params, std::span<const Example> examples,
                                    Order order, std::span<double> sums) {
    while (!order.empty()) {
        const Order now = order.first(fill(examples, order));
        order = order.subspan(now.size());
        FEDLLM_TRY_VOID(transformer_.forward_loss(view(), params));
        std::span<const float> losses = transformer_.losses();
        for (const std::size_t index : now) {
            const std::size_t count = counted(examples[index]);
            for (const float loss : losses.first(count)) sums[index] -= loss;
            losses = losses.subspan(count);
        }
    }
    return {};
}

Result<void> Evaluator::score_shared(const tensor::ParamSet& params, std::span<const Example> examples,
                                     std::span<const Order> groups, std::span<double> sums) {
    const std::size_t vocab = transformer_.network().config().vocab;
    std::vector<float> logits;
    while (!groups.empty()) {
        std::vector<std::size_t> heads;
        for (const Order group : groups.first(std::min(groups.size(), kLogitRowsMax))) {
            heads.push_back(group.front());
        }
        heads.resize(fill(examples, heads));
        logits.resize(heads.size() * vocab);
        FEDLLM_TRY_VOID(transformer_.logits(view(), params, ends_, {logits.data(), heads.size(), vocab}));
        for (std::size_t row = 0; row < heads.size(); ++row) {
            const auto values = std::span<const float>(logits).subspan(row * vocab, vocab);
            const double total = log_sum_exp(values);
            for (const std::size_t index : groups[row]) {
                sums[index] = values[static_cast<std::size_t>(examples[index].targets.back())] - total;
            }
        }
        groups = groups.subspan(heads.size());
    }
    return {};
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
