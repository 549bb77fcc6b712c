// Trainer: a job's local training on one client, from parameters in to parameters out, and evaluation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <vector>

#include "client/data/batcher.hpp"
#include "client/engine/transformer.hpp"
#include "client/model/base_model.hpp"
#include "common/base/result.hpp"
#include "common/job/job_spec.hpp"
#include "common/tensor/param_set.hpp"
#include "kernels/device/thread_pool.hpp"

namespace fedllm::client::train {

// One round's share of a job: where it stands in the learning rate schedule, which spans all rounds.
struct TrainRequest {
    std::uint64_t seed = 0;         // of the order of the data
    std::uint64_t first_step = 0;   // steps of earlier rounds
    std::uint64_t total_steps = 0;  // of all rounds; 0: this one alone
};

struct TrainProgress {
    std::uint64_t step = 0;  // done, of
    std::uint64_t steps = 0;
    double loss = 0;           // mean over the counted tokens of this step, before its update
    double gradient_norm = 0;  // before clipping
    double learning_rate = 0;
    double tokens_per_second = 0;  // so far
};

struct TrainOutcome {
    std::uint64_t steps = 0;
    std::uint64_t examples = 0;  // that were learned from, repeats included
    std::uint64_t tokens = 0;    // that counted in the loss
    double loss_first = 0;       // mean over the first tenth of the steps
    double loss_last = 0;        // mean over the last tenth
    double seconds = 0;
    double tokens_per_second = 0;  // all tokens of the batches: what the machine did
};

struct EvalOutcome {
    double loss_sum = 0;
    std::uint64_t tokens = 0;
    double mean() const { return tokens == 0 ? 0.0 : loss_sum / static_cast<double>(tokens); }
};

// Lifecycle: all large memory is taken in create(); `model` and `pool` must outlive it.
// Concurrency: one call at a time.
// Limits: a batch that needs more than kBufferBytesMax is cut into micro-batches whose gradients are added;
// the cut depends on job and model only, so machines of any size give the same bits.
class Trainer {
public:
    static constexpr std::size_t kBufferBytesMax = std::size_t{1} << 30;

    // InvalidConfig where the job does not fit the model, TooLarge where one row alone needs absurdly much
    // memory.
    static Result<std::unique_ptr<Trainer>> create(const model::BaseModel& model, const job::JobSpec& job,
                                                   kernels::ThreadPool& pool);

    const tensor::Manifest& manifest() const { return gradients_.manifest(); }  // of what is trained
    const engine::Network& network() const { return transformer_.network(); }
    const engine::Limits& limits() const { return transformer_.limits(); }  // of a micro-batch

    // Steps that train() will take with these examples.
    std::uint64_t steps(std::span<const data::Example> examples) const;

    // AdamW with fresh moments, in place. The same arguments give the same bits, whatever the number of
    // threads. ManifestMismatch, InvalidData (nothing to learn), NotFinite (names the step), Cancelled.
    Result<TrainOutcome> train(tensor::ParamSet& params, std::span<const data::Example> examples,
                               const TrainRequest& request,
                               const std::function<void(const TrainProgress&)>& progress = {},
                               std::stop_token stop = {});

    Result<EvalOutcome> evaluate(const tensor::ParamSet& params, std::span<const data::Example> examples);

private:
    Trainer(engine::Transformer transformer, tensor::Manifest manifest, const job::JobSpec& job,
            std::size_t micro_rows, kernels::ThreadPool& pool);
    Result<void> check(const tensor::ParamSet& params, std::span<const data::Example> examples) const;
    Result<engine::StepResult> gradients_of(const data::Batch& batch, const tensor::ParamSet& params);
    Result<double> update(tensor::ParamSet& params, std::uint64_t step, double learning_rate);
    data::Packing packing() const { return train_.packing ? data::Packing::On : data::Packing::Off; }

    kernels::ThreadPool* pool_;
    job::TrainSpec train_;
    std::size_t micro_rows_;
    engine::Transformer transformer_;
    tensor::ParamSet gradients_;
    std::vector<float> first_moment_, second_moment_;
    struct Run {  // of consecutive values
        std::size_t first = 0;
        std::size_t count = 0;
    };
    static std::vector<Run> frozen_runs(const tensor::Manifest& manifest, const job::JobSpec& job);
    std::vector<Run> frozen_;  // in order; they get no gradient and no weight decay
};

}  // namespace fedllm::client::train
