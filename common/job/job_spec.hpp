// The job: everything about a training run, written once by the one who submits it (configs/recipes/*.yaml),
// stored by the server, and sent word for word to every client, which reads it with this same strict table.
// So there is one form of a job, and a client never trains what it did not understand.
#pragma once

#include <array>
#include <string>
#include <utility>

#include "common/codec/codec.hpp"
#include "common/config/yaml.hpp"
#include "common/tensor/base_spec.hpp"
#include "common/tensor/fixed_point.hpp"
#include "common/tensor/lora_spec.hpp"

namespace fedllm::job {

enum class Method { Lora, Full };           // what is trained: adapters over a frozen base, or all weights
enum class Weighting { Samples, Uniform };  // FedAvg's n_k, or 1
enum class Schedule { Constant, Cosine };   // of the learning rate, over all rounds together, after warm-up
enum class Checkpointing { None, Layers };  // activations: keep all, or each layer's input and compute again

struct OptimizerSpec {  // AdamW; fresh moments each round, as in FedAvg
    double learning_rate = 1e-3;
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;
    double weight_decay = 0.0;
    double gradient_clip = 1.0;  // global L2 norm; 0 switches it off
    Schedule schedule = Schedule::Constant;
    std::uint32_t warmup_steps = 0;
    bool operator==(const OptimizerSpec&) const = default;
};

struct TrainSpec {
    std::uint32_t local_steps = 0;  // optimiser steps per round; 0: one pass over the local data
    std::uint32_t batch_rows = 8;   // sequences per step
    std::uint32_t sequence_length = 256;
    bool packing = true;  // several short examples share a row, without seeing each other
    Checkpointing checkpointing = Checkpointing::None;
    OptimizerSpec optimizer;
    bool operator==(const TrainSpec&) const = default;
};

struct UpdateSpec {
    double clip_norm =
        10.0;  // L2 bound of the whole update: clients scale down to it, the server refuses more
    codec::Spec codec{.id = codec::CodecId::Deadzone, .bits = 0.75};  // how it is encoded
    bool error_feedback = true;  // what encoding left out is added to the next update
    std::uint32_t segments = 1;  // each update carries one of so many parts, in turn (EcoLoRA, 2506.02001)
    double upload_seconds = 0;   // a coarser step where the link would need longer; 0: never
    bool operator==(const UpdateSpec&) const = default;
};

struct DownloadSpec {
    codec::Spec codec{.id = codec::CodecId::Deadzone, .bits = 1.5};  // of the difference between two versions
    bool operator==(const DownloadSpec&) const = default;
};

enum class Mode { Sync, Async };

// Async: FedBuff (Nguyen et al. 2022, arXiv 2106.06639). Every free client trains from the newest version,
// and whenever `buffer` updates are in, the next version is made of them.
struct AggregationSpec {
    Mode mode = Mode::Sync;
    std::uint32_t buffer = 0;          // async: updates per version
    double staleness_power = 0.5;      // async: an update s versions old counts 1/(1+s)^power
    std::uint32_t staleness_max = 16;  // async: an update that is more versions old does not count
    tensor::SumBits sum_bits = tensor::SumBits::Bits64;  // of the exact sum: the server's memory per value
    bool operator==(const AggregationSpec&) const = default;
};

struct JobSpec {
    std::string name;
    std::string base_model;        // a name that each client's own file maps to a folder
    std::string base_fingerprint;  // filled in by `fedllm job submit`: clients with other weights refuse
    tensor::BaseSpec base;
    std::uint64_t seed = 1;
    Method method = Method::Lora;
    tensor::LoraSpec lora{
        .target_modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}};
    std::uint32_t priority = 0;  // of several jobs, the higher one gets a free client
    std::uint32_t rounds = 10;
    std::uint32_t clients_per_round = 2;  // N: how many count; async: how many train at once
    std::uint32_t clients_minimum = 2;    // K: how many suffice to close
    AggregationSpec aggregation;
    std::uint64_t samples_max = 10'000'000;  // a client that claims more is refused
    Weighting weighting = Weighting::Samples;
    double server_learning_rate = 1.0;
    UpdateSpec update;
    DownloadSpec download;
    TrainSpec train;
    bool operator==(const JobSpec&) const = default;
};

const config::Table<JobSpec>& job_table();

// The fields of a codec, for config::prefixed() under each section that names one.
const config::Table<codec::Spec>& codec_table();

// Loads and checks what no single field can: K <= N, samples_max * clients * clip within the accumulator, ...
Result<JobSpec> parse_job(const std::string& yaml, const std::string& source);
Result<JobSpec> load_job(const Path& path);
std::string print_job(const JobSpec& job);  // canonical YAML: what is stored and sent

// What an update's weight is multiplied by when it started `staleness` versions before the newest:
// round(1024 / (1 + staleness)^power), at least 1; all ones in a synchronous job.
std::uint64_t staleness_weight(const AggregationSpec& aggregation, std::uint32_t staleness);

// How many updates a version is made of: clients_per_round, or the buffer.
std::uint32_t updates_per_version(const JobSpec& job);

// The most that the weights of a round's contributions can add up to: with the clip norm it fixes the scale
// of the exact sum. parse_job() has refused the jobs that have none.
double weight_total_max(const JobSpec& job);
Result<tensor::FixedPoint> sum_scale(const JobSpec& job);

// The learning rate of optimiser step `step` (from 0, counted over all rounds) out of `total`.
double learning_rate_at(const OptimizerSpec& optimizer, std::uint64_t step, std::uint64_t total);

}  // namespace fedllm::job

template <>
struct fedllm::config::EnumNames<fedllm::job::Method> {
    static constexpr std::array<std::pair<job::Method, std::string_view>, 2> rows{
        {{job::Method::Lora, "lora"}, {job::Method::Full, "full"}}};
};
template <>
struct fedllm::config::EnumNames<fedllm::job::Mode> {
    static constexpr std::array<std::pair<job::Mode, std::string_view>, 2> rows{
        {{job::Mode::Sync, "sync"}, {job::Mode::Async, "async"}}};
};
template <>
struct fedllm::config::EnumNames<fedllm::job::Weighting> {
    static constexpr std::array<std::pair<job::Weighting, std::string_view>, 2> rows{
        {{job::Weighting::Samples, "samples"}, {job::Weighting::Uniform, "uniform"}}};
};
template <>
struct fedllm::config::EnumNames<fedllm::tensor::SumBits> {
    static constexpr std::array<std::pair<tensor::SumBits, std::string_view>, 2> rows{
        {{tensor::SumBits::Bits64, "64"}, {tensor::SumBits::Bits32, "32"}}};
};
template <>
struct fedllm::config::EnumNames<fedllm::job::Schedule> {
    static constexpr std::array<std::pair<job::Schedule, std::string_view>, 2> rows{
        {{job::Schedule::Constant, "constant"}, {job::Schedule::Cosine, "cosine"}}};
};
template <>
struct fedllm::config::EnumNames<fedllm::job::Checkpointing> {
    static constexpr std::array<std::pair<job::Checkpointing, std::string_view>, 2> rows{
        {{job::Checkpointing::None, "none"}, {job::Checkpointing::Layers, "layers"}}};
};
template <>
struct fedllm::config::EnumNames<fedllm::codec::CodecId> {
    static constexpr std::array<std::pair<codec::CodecId, std::string_view>, 7> rows{
        {{codec::CodecId::None, "none"},
         {codec::CodecId::Bf16, "bf16"},
         {codec::CodecId::Int8, "int8"},
         {codec::CodecId::Int4, "int4"},
         {codec::CodecId::Sign, "sign"},
         {codec::CodecId::TopK, "topk"},
         {codec::CodecId::Deadzone, "deadzone"}}};
};
template <>
struct fedllm::config::EnumNames<fedllm::codec::Rounding> {
    static constexpr std::array<std::pair<codec::Rounding, std::string_view>, 2> rows{
        {{codec::Rounding::Nearest, "nearest"}, {codec::Rounding::Stochastic, "stochastic"}}};
};
template <>
struct fedllm::config::EnumNames<fedllm::codec::TopKValues> {
    static constexpr std::array<std::pair<codec::TopKValues, std::string_view>, 2> rows{
        {{codec::TopKValues::Bf16, "bf16"}, {codec::TopKValues::Int4, "int4"}}};
};
template <>
struct fedllm::config::EnumNames<fedllm::tensor::BaseStorage> {
    static constexpr std::array<std::pair<tensor::BaseStorage, std::string_view>, 5> rows{
        {{tensor::BaseStorage::AsStored, "as_stored"},
         {tensor::BaseStorage::Bf16, "bf16"},
         {tensor::BaseStorage::Int8, "int8"},
         {tensor::BaseStorage::Nf4, "nf4"},
         {tensor::BaseStorage::Fp4, "fp4"}}};
};
template <>
struct fedllm::config::EnumNames<fedllm::tensor::BaseCompute> {
    static constexpr std::array<std::pair<tensor::BaseCompute, std::string_view>, 4> rows{
        {{tensor::BaseCompute::Float, "float"},
         {tensor::BaseCompute::Bf16, "bf16"},
         {tensor::BaseCompute::Int8, "int8"},
         {tensor::BaseCompute::Fp8, "fp8"}}};
};
