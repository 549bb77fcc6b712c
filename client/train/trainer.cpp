#include "client/train/trainer.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "client/engine/cpu_engine.hpp"
#include "client/train/memory_plan.hpp"
#include "common/base/clock.hpp"

namespace fedllm::client::train {
namespace {

using data::Batch;
using engine::BatchView;
using engine::Limits;
using engine::Run;
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

std::vector<Run> frozen_runs(const tensor::Manifest& manifest, const job::JobSpec& job) {
    std::vector<Run> runs;
    if (job.method != job::Method::Lora || !job.lora.freeze_a) return runs;
    for (std::size_t i = 0; i < manifest.tensors().size(); ++i) {
        const tensor::TensorSpec& spec = manifest.tensors()[i];
        if (spec.name.ends_with(".lora_A.weight")) runs.push_back({manifest.offset(i), spec.elements()});
    }
    return runs;
}

}  // namespace

Result<std::unique_ptr<Trainer>> Trainer::create(const model::BaseModel& model, const job::JobSpec& job,
                                                 engine::Backend& backend) {
    const model::ModelConfig& config = model.config();
    if (job.train.sequence_length > config.context) {
        return make_error(Errc::InvalidConfig,
                          "train.sequence_length: " + std::to_string(job.train.sequence_length) +
                              " exceeds the model's context of " + std::to_string(config.context) +
                              " tokens");
    }
    FEDLLM_TRY(tensor::Manifest manifest, trained_manifest(config, job));
    FEDLLM_TRY(engine::Network network, engine::Network::create(config, model.weights(), manifest, job.lora));
    const auto bytes_of = [&](const Limits& of) { return backend.buffer_bytes(network, of); };
    FEDLLM_TRY(const Limits limits, choose_limits(job.train, bytes_of, backend.buffer_bytes_max()));
    FEDLLM_TRY(auto engine, backend.make(std::move(network), limits, frozen_runs(manifest, job)));
    return std::unique_ptr<Trainer>(new Trainer(std::move(engine), std::move(manifest), job));
}

Result<std::unique_ptr<Trainer>> Trainer::create(const model::BaseModel& model, const job::JobSpec& job,
                                                 kernels::ThreadPool& pool) {
    engine::CpuBackend backend(pool);
    return create(model, job, backend);
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
    FEDLLM_TRY_VOID(engine_->begin_training(params));
    Result<TrainOutcome> outcome = run(batcher, request, progress, stop);
    FEDLLM_TRY_VOID(engine_->end_training());
    return outcome;
}

// While the device works on a step, the host makes the next batch.
Result<TrainOutcome> Trainer::run(data::Batcher& batcher, const TrainRequest& request,
                                  const std::function<void(const TrainProgress&)>& progress,
                                  const std::stop_token& stop) {
    const job::OptimizerSpec& optimizer = train_.optimizer;
    TrainOutcome outcome;
    outcome.steps = train_.local_steps != 0 ? train_.local_steps : batcher.steps_per_epoch();
    const std::uint64_t total = std::max(request.total_steps, request.first_step + outcome.steps);
    std::vector<StepResult> results;
    results.reserve(outcome.steps);
    Batch batch, next;
    batcher.next(batch);
    const double started = monotonic_seconds();
    for (std::uint64_t step = 0; step < outcome.steps; ++step) {
        if (stop.stop_requested()) {
            return make_error(Errc::Cancelled, "training stopped after " + std::to_string(step) + " of " +
                                                   std::to_string(outcome.steps) + " steps");
        }
        const double rate = job::learning_rate_at(optimizer, request.first_step + step, total);
        FEDLLM_TRY_VOID(engine_->start(view_of(batch), {{rate, optimizer.beta1, optimizer.beta2,
                                                         optimizer.epsilon, optimizer.weight_decay},
                                                        step + 1,
                                                        optimizer.gradient_clip}));
        if (step + 1 < outcome.steps) batcher.next(next);
        FEDLLM_TRY(const engine::StepReport report, engine_->finish());
        if (!std::isfinite(report.loss.loss_sum)) return not_finite(step + 1, "loss", report.loss.loss_sum);
        if (!std::isfinite(report.gradient_norm))
            return not_finite(step + 1, "gradient", report.gradient_norm);
        results.push_back(report.loss);
        outcome.tokens += report.loss.tokens;
        outcome.examples += documents(batch);
        outcome.seconds = monotonic_seconds() - started;
        outcome.tokens_per_second =
            static_cast<double>((step + 1) * batch.tokens.size()) / std::max(outcome.seconds, 1e-9);
        if (progress) {
            progress({step + 1, outcome.steps, mean_loss({&report.loss, 1}), report.gradient_norm, rate,
                      outcome.tokens_per_second});
        }
        std::swap(batch, next);
    }
    const std::size_t tenth = std::max<std::size_t>(1, results.size() / 10);
    outcome.loss_first = mean_loss(std::span(results).first(tenth));
    outcome.loss_last = mean_loss(std::span(results).last(tenth));
    return outcome;
}

Result<EvalOutcome> Trainer::evaluate(const tensor::ParamSet& params,
                                      std::span<const data::Example> examples) {
    FEDLLM_TRY_VOID(check(params, examples));
    FEDLLM_TRY_VOID(engine_->begin_evaluation(params));
    data::EvalBatches batches(examples, limits().rows, train_.sequence_length, data::Packing::On);
    EvalOutcome outcome;
    Batch batch;
    while (batches.next(batch)) {
        FEDLLM_TRY(const StepResult result, engine_->loss(view_of(batch)));
        outcome.loss_sum += result.loss_sum;
        outcome.tokens += result.tokens;
    }
    if (!std::isfinite(outcome.loss_sum)) {
        return make_error(Errc::NotFinite, "the loss on the evaluation data is not finite");
    }
    return outcome;
}

}  // namespace fedllm::client::train
