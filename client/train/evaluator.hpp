// Evaluator: how likely a model finds given texts. For perplexity and for choosing among answers.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "client/data/batcher.hpp"
#include "client/engine/transformer.hpp"
#include "client/model/base_model.hpp"
#include "client/train/trainer.hpp"
#include "common/base/result.hpp"
#include "common/tensor/lora_spec.hpp"
#include "common/tensor/param_set.hpp"
#include "kernels/device/thread_pool.hpp"

namespace fedllm::client::train {

// Lifecycle: all large memory is taken in create(); `model` and `pool` must outlive it.
// Concurrency: one call at a time.
// Limits: examples of at most sequence_length tokens (InvalidData beyond).
class Evaluator {
public:
    // `manifest` lists what parameters evaluate() gets: an adapter's tensors of any ranks, or nothing.
    static Result<Evaluator> create(const model::BaseModel& model, const tensor::Manifest& manifest,
                                    const tensor::LoraScales& scales, std::size_t sequence_length,
                                    kernels::ThreadPool& pool);

    // For each example the sum over its counted targets of log p(target), in nats. Examples are packed, long
    // ones first; an example's value does not depend on its neighbours (a test of the engine). Those that
    // share all tokens and count the last target alone, as the letters of a question do, are computed once.
    Result<std::vector<double>> log_likelihoods(const tensor::ParamSet& params,
                                                std::span<const data::Example> examples);

    Result<EvalOutcome> evaluate(const tensor::ParamSet& params, std::span<const data::Example> examples);

private:
    Evaluator(engine::Transformer transformer, engine::Limits limits)
        : transformer_(std::move(transformer)), limits_(limits) {}
    using Order = std::span<const std::size_t>;  // indices of examples
    std::size_t fill(std::span<const data::Example> examples, Order order);
    engine::BatchView view() const;
    Result<void> score_apart(const tensor::ParamSet& params, std::span<const data::Example> examples,
                             Order order, std::span<double> sums);
    Result<void> score_shared(const tensor::ParamSet& params, std::span<const data::Example> examples,
                              std::span<const Order> groups, std::span<double> sums);
    void write(const data::Example* example, std::size_t length);

    engine::Transformer transformer_;
    engine::Limits limits_;
    data::Batch batch_;
    std::vector<std::int32_t> ends_;  // where in batch_ each example's last token is
};

}  // namespace fedllm::client::train
