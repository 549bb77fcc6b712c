#include "client/train/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "client/train/memory_plan.hpp"
#include "common/base/clock.hpp"
#include "kernels/adamw/op.hpp"

namespace fedllm::client::train {
namespace {

using data::Batch;
using engine::BatchView;
using engine::Limits;
using engine::StepResult;

BatchView view_of(const Batch& batch) {
    return {batch.rows, batch.tokens_per_row, batch.tokens, batch.targets, batch.positions, batch.first_key};
}

// Documents with something to learn; padding has none.
std::uint64_t documents(const Batch& batch) {
    std::uint64_t count = 0;
    bool fresh = false;  // inside a document that has not been counted
    for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
        if (batch.positions[i] == 0) fresh = true;
        if (!fresh || batch.targets[i] == data::kIgnoreIndex) continue;
        ++count;
        fresh = false;
    }
    return count;
}

// Steps are short of tokens at times: means are over tokens, not over steps.
double mean_loss(std::span<const StepResult> steps) {
    EvalOutcome sum;
    for (const StepResult& step : steps) {
        sum.loss_sum += step.loss_sum;
        sum.tokens += step.tokens;
    }
    return sum.mean();
}

Error not_finite(std::uint64_t step, const std::string& what, double value) {
    return make_error(Errc::NotFinite,
                      "training step " + std::to_string(step) + ": the " + what + " is " +
                          std::to_string(value) +
                          "; lower train.optimizer.learning_rate, or look for broken values in "
                          "the model");
}

}  // namespace

Result<std::unique_ptr<Trainer>> Trainer::create(const model::BaseModel& model, const job::JobSpec& job,
                                                 kernels::ThreadPool& pool) {
    const model::ModelConfig& config = model.config();
    if (job.train.sequence_length > config.context) {
        return make_error(Errc::InvalidConfig,
                          "train.sequence_length: " + std::to_string(job.train.sequence_length) +
                              " exceeds the model's context of " + std::to_string(config.context) +
                              " tokens");
    }
    FEDLLM_TRY(tensor::Manifest manifest, trained_manifest(config, job));
    FEDLLM_TRY(engine::Network network, engine::Network::create(config, model.weights(), manifest, job.lora));
    FEDLLM_TRY(const Limits limits, choose_limits(network, job.train));
    FEDLLM_TRY(auto transformer, engine::Transformer::create(pool, std::move(network), limits));
    return std::unique_ptr<Trainer>(
        new Trainer(std::move(transformer), std::move(manifest), job, limits.rows, pool));
}

Trainer::Trainer(engine::Transformer transformer, tensor::Manifest manifest, const job::JobSpec& job,
                 std::size_t micro_rows, kernels::ThreadPool& pool)
    : pool_(&pool),
      train_(job.train),
      micro_rows_(micro_rows),
      transformer_(std::move(transformer)),
      gradients_(std::move(manifest)),
      first_moment_(gradients_.values().size()),
      second_moment_(gradients_.values().size()),
      frozen_(frozen_runs(gradients_.manifest(), job)) {}

std::vector<Trainer::Run> Trainer::frozen_runs(const tensor::Manifest& manifest, const job::JobSpec& job) {
    std::vector<Run> runs;
    if (job.method != job::Method::Lora || !job.lora.freeze_a) return runs;
    for (std::size_t i = 0; i < manifest.tensors().size(); ++i) {
        const tensor::TensorSpec& spec = manifest.tensors()[i];
        if (spec.name.ends_with(".lora_A.weight")) runs.push_back({manifest.offset(i), spec.elements()});
    }
    return runs;
}

std::uint64_t Trainer::steps(std::span<const data::Example> examples) const {
    if (train_.local_steps != 0 || examples.empty()) return train_.local_steps;
    return data::Batcher(examples, train_.batch_rows, train_.sequence_length, 0, packing()).steps_per_epoch();
}

Result<void> Trainer::check(const tensor::ParamSet& params, std::span<const data::Example> examples) const {
    if (!(params.manifest() == manifest())) {
        return make_error(Errc::ManifestMismatch,
                          "the parameters are not this job's: " + difference(manifest(), params.manifest()));
    }
    for (const data::Example& example : examples) {
        if (example.tokens.size() <= train_.sequence_length && !example.tokens.empty()) continue;
        return make_error(Errc::InvalidData, "an example has " + std::to_string(example.tokens.size()) +
                                                 " tokens, and train.sequence_length is " +
                                                 std::to_string(train_.sequence_length));
    }
    return {};
}

Result<TrainOutcome> Trainer::train(tensor::ParamSet& params, std::span<const data::Example> examples,
                                    const TrainRequest& request,
                                    const std::function<void(const TrainProgress&)>& progress,
                                    std::stop_token stop) {
    FEDLLM_TRY_VOID(check(params, examples));
    if (examples.empty()) return make_error(Errc::InvalidData, "there are no examples to train on");
    data::Batcher batcher(examples, train_.batch_rows, train_.sequence_length, request.seed, packing());
    TrainOutcome outcome;
    outcome.steps = train_.local_steps != 0 ? train_.local_steps : batcher.steps_per_epoch();
    const std::uint64_t total = std::max(request.total_steps, request.first_step + outcome.steps);
    std::fill(first_moment_.begin(), first_moment_.end(), 0.0F);
    std::fill(second_moment_.begin(), second_moment_.end(), 0.0F);
    std::vector<StepResult> results;
    results.reserve(outcome.steps);
    Batch batch;
    const double started = monotonic_seconds();
    for (std::uint64_t step = 0; step < outcome.steps; ++step) {
        if (stop.stop_requested()) {
            return make_error(Errc::Cancelled, "training stopped after " + std::to_string(step) + " of " +
                                                   std::to_string(outcome.steps) + " steps");
        }
        batcher.next(batch);
        const double rate = job::learning_rate_at(train_.optimizer, request.first_step + step, total);
        FEDLLM_TRY(const StepResult result, gradients_of(batch, params));
        if (!std::isfinite(result.loss_sum)) return not_finite(step + 1, "loss", result.loss_sum);
        FEDLLM_TRY(const double norm, update(params, step + 1, rate));
        results.push_back(result);
        outcome.tokens += result.tokens;
        outcome.examples += documents(batch);
        outcome.seconds = monotonic_seconds() - started;
        outcome.tokens_per_second =
            static_cast<double>((step + 1) * batch.tokens.size()) / std::max(outcome.seconds, 1e-9);
        if (progress) {
            progress(
                {step + 1, outcome.steps, mean_loss({&result, 1}), norm, rate, outcome.tokens_per_second});
        }
    }
    const std::size_t tenth = std::max<std::size_t>(1, results.size() / 10);
    outcome.loss_first = mean_loss(std::span(results).first(tenth));
    outcome.loss_last = mean_loss(std::span(results).last(tenth));
    return outcome;
}

// Gradients of the mean loss over the batch's counted tokens, micro-batch by micro-batch.
Result<StepResult> Trainer::gradients_of(const Batch& batch, const tensor::ParamSet& params) {
    std::fill(gradients_.values().begin(), gradients_.values().end(), 0.0F);
    const BatchView view = view_of(batch);
    const float scale = 1.0F / static_cast<float>(std::max<std::size_t>(1, batch.labels));
    StepResult sum;
    for (std::size_t row = 0; row < batch.rows; row += micro_rows_) {
        const std::size_t rows = std::min(micro_rows_, batch.rows - row);
        FEDLLM_TRY(const StepResult part,
                   transformer_.forward_backward(view.slice(row, rows), params, gradients_, scale));
        sum.loss_sum += part.loss_sum;
        sum.tokens += part.tokens;
    }
    return sum;
}

// Clips as torch.nn.utils.clip_grad_norm_ does, and takes the step: run by run between what is frozen, which
// counts in no norm. Returns the norm before clipping.
Result<double> Trainer::update(tensor::ParamSet& params, std::uint64_t step, double learning_rate) {
    const job::OptimizerSpec& optimizer = train_.optimizer;
    for (const Run& run : frozen_) {
        const auto values = gradients_.values().subspan(run.first, run.count);
        std::fill(values.begin(), values.end(), 0.0F);
    }
    const double norm = kernels::l2_norm(*pool_, gradients_.values());
    if (!std::isfinite(norm)) return not_finite(step, "gradient", norm);
    const double clip =
        optimizer.gradient_clip > 0 ? std::min(1.0, optimizer.gradient_clip / (norm + 1e-6)) : 1.0;
    const kernels::AdamWConfig config{learning_rate, optimizer.beta1, optimizer.beta2, optimizer.epsilon,
                                      optimizer.weight_decay};
    const auto advance = [&](std::size_t first, std::size_t end) {
        const auto part = [&](std::span<float> values) { return values.subspan(first, end - first); };
        if (first == end) return;
        kernels::adamw(*pool_, config, step, static_cast<float>(clip), part(gradients_.values()),
                       part(params.values()), part(first_moment_), part(second_moment_));
    };
    std::size_t first = 0;
    for (const Run& run : frozen_) {
        advance(first, run.first);
        first = run.first + run.count;
    }
    advance(first, params.values().size());
    return norm;
}

Result<EvalOutcome> Trainer::evaluate(const tensor::ParamSet& params,
                                      std::span<const data::Example> examples) {
    FEDLLM_TRY_VOID(check(params, examples));
    data::EvalBatches batches(examples, micro_rows_, train_.sequence_length, data::Packing::On);
    EvalOutcome outcome;
    Batch batch;
    while (batches.next(batch)) {
        FEDLLM_TRY(const StepResult result, transformer_.forward_loss(view_of(batch), params));
        outcome.loss_sum += result.loss_sum;
        outcome.tokens += result.tokens;
    }
    if (!std::isfinite(outcome.loss_sum)) {
        return make_error(Errc::NotFinite, "the loss on the evaluation data is not finite");
    }
    return outcome;
}

}  // namespace fedllm::client::train
