#include "common/job/job_spec.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "common/tensor/fixed_point.hpp"

namespace fedllm::job {
namespace {

using config::field;
using config::FieldOptions;
using config::Table;

const Table<OptimizerSpec>& optimizer_table() {
    using C = OptimizerSpec;
    static const Table<C> table{
        field<C>("learning_rate", [](auto& c) -> auto& { return c.learning_rate; },
                 "peak learning rate of AdamW on the client", {.min = 0, .max = 10}),
        field<C>("beta1", [](auto& c) -> auto& { return c.beta1; }, "AdamW first moment decay",
                 {.min = 0, .max = 0.9999}),
        field<C>("beta2", [](auto& c) -> auto& { return c.beta2; }, "AdamW second moment decay",
                 {.min = 0, .max = 0.999999}),
        field<C>("epsilon", [](auto& c) -> auto& { return c.epsilon; }, "AdamW denominator floor",
                 {.min = 1e-12, .max = 1}),
        field<C>("weight_decay", [](auto& c) -> auto& { return c.weight_decay; }, "decoupled weight decay",
                 {.min = 0, .max = 1}),
        field<C>("gradient_clip", [](auto& c) -> auto& { return c.gradient_clip; },
                 "global L2 norm that gradients are scaled down to; 0 switches it off", {.min = 0}),
        field<C>(
            "schedule", [](auto& c) -> auto& { return c.schedule; },
            "learning rate over all rounds together, after warm-up"),
        field<C>(
            "warmup_steps", [](auto& c) -> auto& { return c.warmup_steps; },
            "steps of linear warm-up, counted over all rounds"),
    };
    return table;
}

const Table<AggregationSpec>& aggregation_table() {
    using C = AggregationSpec;
    static const Table<C> table{
        field<C>(
            "mode", [](auto& c) -> auto& { return c.mode; },
            "sync: rounds, in which everybody starts from the same version; async: every free client trains "
            "from "
            "the newest version, and each `buffer` updates make the next one (FedBuff)"),
        field<C>("buffer", [](auto& c) -> auto& { return c.buffer; },
                 "async: updates that make a version; between clients_minimum and clients_per_round",
                 {.max = 100'000}),
        field<C>(
            "staleness_power", [](auto& c) -> auto& { return c.staleness_power; },
            "async: an update that started s versions ago counts 1/(1+s)^power of its weight; 0: all alike",
            {.min = 0, .max = 4}),
        field<C>("staleness_max", [](auto& c) -> auto& { return c.staleness_max; },
                 "async: an update that started more versions ago does not count; its client starts again",
                 {.max = 1'000}),
        field<C>(
            "sum_bits", [](auto& c) -> auto& { return c.sum_bits; },
            "integers of the exact sum, the server's memory per value: 64, or 32 where clip_norm x weights "
            "is "
            "small (at most 64 in all)"),
    };
    return table;
}

Table<JobSpec> make_table() {
    using C = JobSpec;
    Table<C> table{
        field<C>("name", [](auto& c) -> auto& { return c.name; }, "a short name for people",
                 {.required = true}),
        field<C>("base_model", [](auto& c) -> auto& { return c.base_model; },
                 "the base model, by the name under which each client's own file lists its folder",
                 {.required = true}),
        field<C>(
            "base_fingerprint", [](auto& c) -> auto& { return c.base_fingerprint; },
            "identifies the exact base weights; filled in by 'fedllm job submit'"),
        field<C>(
            "base.storage", [](auto& c) -> auto& { return c.base.storage; },
            "how clients hold the linear layers of the frozen base: converted while loading, or as stored"),
        field<C>(
            "base.compute", [](auto& c) -> auto& { return c.base.compute; },
            "how clients multiply with the frozen linear layers: f32; operands rounded to bf16, sums in f32 "
            "(AVX-512 BF16 makes that faster); 8-bit integers (AVX-512 VNNI); or fp8, which GPUs from Hopper "
            "on "
            "multiply twice as fast, and others compute as bf16. GPUs take bf16 for all but fp8"),
        field<C>(
            "seed", [](auto& c) -> auto& { return c.seed; },
            "of everything random: the same seed and participants give the same bits"),
        field<C>(
            "method", [](auto& c) -> auto& { return c.method; }, "what is trained"),
        field<C>("lora.rank", [](auto& c) -> auto& { return c.lora.rank; }, "rank of the adapters",
                 {.min = 1, .max = 1024}),
        field<C>("lora.alpha", [](auto& c) -> auto& { return c.lora.alpha; }, "scale is alpha / rank",
                 {.min = 0, .max = 65536}),
        field<C>(
            "lora.rslora", [](auto& c) -> auto& { return c.lora.rslora; }, "scale is alpha / sqrt(rank)"),
        field<C>(
            "lora.freeze_a", [](auto& c) -> auto& { return c.lora.freeze_a; },
            "train B alone: A stays as the seed made it, and updates carry nothing for it (FFA-LoRA)"),
        field<C>(
            "lora.target_modules", [](auto& c) -> auto& { return c.lora.target_modules; },
            "the linear layers that get an adapter"),
        field<C>(
            "priority", [](auto& c) -> auto& { return c.priority; },
            "of several jobs, the one with the higher number gets a free client; among equals, the one that "
            "waited longest",
            {.max = 1'000}),
        field<C>("rounds", [](auto& c) -> auto& { return c.rounds; }, "how many global versions to produce",
                 {.min = 1, .max = 1'000'000}),
        field<C>("clients_per_round", [](auto& c) -> auto& { return c.clients_per_round; },
                 "N: updates that count in each round; async: clients that train at once",
                 {.min = 1, .max = 100'000}),
        field<C>("clients_minimum", [](auto& c) -> auto& { return c.clients_minimum; },
                 "K: updates that suffice to close a round when the others fall far behind or drop out",
                 {.min = 1, .max = 100'000}),
        field<C>("samples_max", [](auto& c) -> auto& { return c.samples_max; },
                 "the largest sample count a client may claim; more is refused", {.min = 1, .max = 1e12}),
        field<C>(
            "weighting", [](auto& c) -> auto& { return c.weighting; }, "each client's weight in the mean"),
        field<C>("server_learning_rate", [](auto& c) -> auto& { return c.server_learning_rate; },
                 "the mean update is multiplied by this; 1 is FedAvg", {.min = 0, .max = 100}),
    };
    config::append(table,
                   config::prefixed<C>(
                       "aggregation", aggregation_table(), [](auto& c) -> auto& { return c.aggregation; }));
    config::append(
        table, Table<C>{
                   field<C>("update.clip_norm", [](auto& c) -> auto& { return c.update.clip_norm; },
                            "L2 bound of a whole update: clients scale down to it, the server refuses more",
                            {.min = 1e-6, .max = 1e6}),
               });
    config::append(table, config::prefixed<C>(
                              "update", codec_table(), [](auto& c) -> auto& { return c.update.codec; }));
    config::append(
        table,
        Table<C>{
            field<C>(
                "update.error_feedback", [](auto& c) -> auto& { return c.update.error_feedback; },
                "clients keep what encoding left out, and add it to their next update"),
            field<C>("update.segments", [](auto& c) -> auto& { return c.update.segments; },
                     "each update carries one of so many parts of the tensors, in turn; the rest waits "
                     "in the error feedback",
                     {.min = 1, .max = 256}),
            field<C>("update.upload_seconds", [](auto& c) -> auto& { return c.update.upload_seconds; },
                     "deadzone: a coarser step where the client's measured link would need longer than this; "
                     "0: never",
                     {.min = 0, .max = 86400}),
        });
    // Of the difference between two versions; `none` means that clients fetch whole versions.
    config::append(table, config::prefixed<C>(
                              "download", codec_table(), [](auto& c) -> auto& { return c.download.codec; }));
    config::append(
        table,
        Table<C>{
            field<C>("train.local_steps", [](auto& c) -> auto& { return c.train.local_steps; },
                     "optimiser steps per round; 0 means one pass over the local data", {.max = 10'000'000}),
            field<C>("train.batch_rows", [](auto& c) -> auto& { return c.train.batch_rows; },
                     "sequences per step", {.min = 1, .max = 4096}),
            field<C>("train.sequence_length", [](auto& c) -> auto& { return c.train.sequence_length; },
                     "tokens per sequence; longer examples are cut", {.min = 8, .max = 131072}),
            field<C>(
                "train.packing", [](auto& c) -> auto& { return c.train.packing; },
                "put several short examples in one row, without letting them see each other"),
            field<C>(
                "train.checkpointing", [](auto& c) -> auto& { return c.train.checkpointing; },
                "activations kept for the backward pass: all, or each layer's input, from which the rest is "
                "computed again: a fraction of the memory, about a third more time"),
        });
    config::append(
        table, config::prefixed<C>(
                   "train.optimizer", optimizer_table(), [](auto& c) -> auto& { return c.train.optimizer; }));
    return table;
}

Error refused(const std::string& source, const std::string& key, const std::string& what) {
    return make_error(Errc::InvalidConfig, source + ": " + key + ": " + what);
}

Result<void> check_aggregation(const JobSpec& job, const std::string& source) {
    const AggregationSpec& aggregation = job.aggregation;
    if (aggregation.mode == Mode::Sync) {
        if (aggregation.buffer == 0) return {};
        return refused(
            source, "aggregation.buffer",
            "is for aggregation.mode: async; a synchronous round counts clients_per_round updates");
    }
    if (aggregation.buffer == 0) {
        return refused(source, "aggregation.buffer", "must be at least 1 with aggregation.mode: async");
    }
    if (aggregation.buffer > job.clients_per_round) {
        return refused(
            source, "aggregation.buffer",
            "is larger than clients_per_round: a version would need more updates than train at once");
    }
    if (job.clients_minimum > aggregation.buffer) {
        return refused(source, "clients_minimum",
                       "is larger than aggregation.buffer: a version is made when the buffer is full");
    }
    if (job.update.segments > 1) {
        return refused(source, "update.segments",
                       "needs aggregation.mode: sync: a buffer mixes updates that carry different parts, and "
                       "their mean would be too small");
    }
    return {};
}

Result<void> check_together(const JobSpec& job, const std::string& source) {
    if (job.name.empty()) return refused(source, "name", "must not be empty");
    if (job.base_model.empty()) return refused(source, "base_model", "must not be empty");
    if (job.clients_minimum > job.clients_per_round) {
        return refused(source, "clients_minimum",
                       "is larger than clients_per_round: the round could never close");
    }
    FEDLLM_TRY_VOID(check_aggregation(job, source));
    if (job.method == Method::Lora && job.lora.target_modules.empty()) {
        return refused(source, "lora.target_modules", "is empty: there would be nothing to train");
    }
    if (job.update.segments > 1 && !job.update.error_feedback) {
        return refused(source, "update.segments",
                       "needs update.error_feedback: what is not sent would be lost");
    }
    if (job.method == Method::Full && job.base != tensor::BaseSpec{}) {
        return refused(source,
                       job.base.compute != tensor::BaseCompute::Float ? "base.compute" : "base.storage",
                       "is for a frozen base; method: full trains every weight in f32");
    }
    if (!sum_scale(job)) {
        const bool narrow = job.aggregation.sum_bits == tensor::SumBits::Bits32;
        return refused(source, narrow ? "aggregation.sum_bits" : "update.clip_norm",
                       std::string("clip_norm x samples_max x clients_per_round (async: x buffer x 1024) is "
                                   "more than the exact ") +
                           (narrow ? "32" : "64") +
                           "-bit sum can hold with enough precision; lower samples_max, or use " +
                           (narrow ? "weighting: uniform, or sum_bits: 64" : "weighting: uniform"));
    }
    return {};
}

}  // namespace

const Table<codec::Spec>& codec_table() {
    using C = codec::Spec;
    static const Table<C> table{
        field<C>(
            "codec", [](auto& c) -> auto& { return c.id; },
            "how values are encoded on the wire; none: plain values (updates), whole versions (downloads)"),
        field<C>("step", [](auto& c) -> auto& { return c.step; },
                 "deadzone with bits: 0: step of the quantiser, in root mean squares of all values; 2.5 "
                 "takes about 0.8 "
                 "bits a value, 1.2 twice as much",
                 {.min = 1e-3, .max = 64}),
        field<C>("bits", [](auto& c) -> auto& { return c.bits; },
                 "deadzone: about so many bits per value; 0: as many as the step takes",
                 {.min = 0, .max = 16}),
        field<C>(
            "rounding", [](auto& c) -> auto& { return c.rounding; },
            "int8, int4: to the nearest, or up or down at random so that the mean is exact"),
        field<C>("density", [](auto& c) -> auto& { return c.density; },
                 "topk: the share of values, the largest, that is sent", {.min = 1e-6, .max = 1}),
        field<C>(
            "topk_values", [](auto& c) -> auto& { return c.topk_values; }, "topk: how those are sent"),
    };
    return table;
}

const Table<JobSpec>& job_table() {
    static const Table<JobSpec> table = make_table();
    return table;
}

Result<JobSpec> parse_job(const std::string& yaml, const std::string& source) {
    FEDLLM_TRY(JobSpec job, config::parse_yaml(yaml, source, job_table()));
    FEDLLM_TRY_VOID(check_together(job, source));
    return job;
}

Result<JobSpec> load_job(const Path& path) {
    FEDLLM_TRY(const std::string text, read_file(path, std::size_t{1} << 20));
    return parse_job(text, path.string());
}

std::string print_job(const JobSpec& job) { return config::print_yaml(job, job_table()); }

double weight_total_max(const JobSpec& job) {
    const double weight = job.weighting == Weighting::Samples ? static_cast<double>(job.samples_max) : 1.0;
    return weight * static_cast<double>(staleness_weight(job.aggregation, 0)) * updates_per_version(job);
}

std::uint64_t staleness_weight(const AggregationSpec& aggregation, std::uint32_t staleness) {
    if (aggregation.mode == Mode::Sync) return 1;
    const double weight = 1024.0 / std::pow(1.0 + staleness, aggregation.staleness_power);
    return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(std::llround(weight)));
}

std::uint32_t updates_per_version(const JobSpec& job) {
    return job.aggregation.mode == Mode::Sync ? job.clients_per_round : job.aggregation.buffer;
}

Result<tensor::FixedPoint> sum_scale(const JobSpec& job) {
    return tensor::FixedPoint::choose(tensor::bound_with_slack(job.update.clip_norm), weight_total_max(job),
                                      job.aggregation.sum_bits);
}

double learning_rate_at(const OptimizerSpec& optimizer, std::uint64_t step, std::uint64_t total) {
    if (step < optimizer.warmup_steps) {
        return optimizer.learning_rate * static_cast<double>(step + 1) / optimizer.warmup_steps;
    }
    if (optimizer.schedule == Schedule::Constant) return optimizer.learning_rate;
    const double done = static_cast<double>(step - optimizer.warmup_steps);
    const double span = std::max<double>(1.0, static_cast<double>(total) - optimizer.warmup_steps);
    const double progress = std::min(1.0, done / span);
    return optimizer.learning_rate * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
}

}  // namespace fedllm::job
