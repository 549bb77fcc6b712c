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
#include "client/engine/engine.hpp"
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

// Lifecycle: all large memory is taken in create(); `model` and what `backend` stands on must outlive it.
// Concurrency: one call at a time.
// Limits: a batch that needs more than Backend::buffer_bytes_max() is cut into micro-batches whose gradients
// are added. On CPUs the cut depends on job and model only, so machines of any size give the same bits.
class Trainer {
public:
    // InvalidConfig where the job does not fit the model, TooLarge where one row alone needs absurdly much
    // memory.
    static Result<std::unique_ptr<Trainer>> create(const model::BaseModel& model, const job::JobSpec& job,
                                                   engine::Backend& backend);
    // On the CPU.
    static Result<std::unique_ptr<Trainer>> create(const model::BaseModel& model, const job::JobSpec& job,
                                                   kernels::ThreadPool& pool);

    const tensor::Manifest& manifest() const { return manifest_; }  // of what is trained
    const engine::Network& network() const { return engine_->network(); }
    const engine::Limits& limits() const { return engine_->limits(); }  // of a micro-batch
    std::string plan() const { return engine_->plan(); }

    // Steps that train() will take with these examples.
    std::uint64_t steps(std::span<const data::Example> examples) const;

    // AdamW with fresh moments, in place. The same arguments give the same bits, whatever the number of
    // threads of a CPU. ManifestMismatch, InvalidData (nothing to learn), NotFinite (names the step),
    // Cancelled.
    Result<TrainOutcome> train(tensor::ParamSet& params, std::span<const data::Example> examples,
                               const TrainRequest& request,
                               const std::function<void(const TrainProgress&)>& progress = {},
                               std::stop_token stop = {});

    Result<EvalOutcome> evaluate(const tensor::ParamSet& params, std::span<const data::Example> examples);

private:
    Trainer(std::unique_ptr<engine::Engine> engine, tensor::Manifest manifest, const job::JobSpec& job)
        : train_(job.train), manifest_(std::move(manifest)), engine_(std::move(engine)) {}
    Result<void> check(const tensor::ParamSet& params, std::span<const data::Example> examples) const;
    Result<TrainOutcome> run(data::Batcher& batcher, const TrainRequest& request,
                             const std::function<void(const TrainProgress&)>& progress,
                             const std::stop_token& stop);
    data::Packing packing() const { return train_.packing ? data::Packing::On : data::Packing::Off; }

    job::TrainSpec train_;
    tensor::Manifest manifest_;
    std::unique_ptr<engine::Engine> engine_;
};

}  // namespace fedllm::client::train
