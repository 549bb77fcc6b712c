// Bits against error for every codec, on what clients of the shared assets' models and data would really
// send: rate_distortion [ASSETS [STEPS]]. Each delta comes from our own trainer, STEPS optimiser steps
// (default 60). Beside each codec stands what `deadzone` makes of the same delta in no more bytes.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "client/data/dataset.hpp"
#include "common/codec/codec.hpp"
#include "tools/local/workspace.hpp"

namespace fedllm::bench {
namespace {

using codec::CodecId;
using nlohmann::json;
using tools::local::Workspace;

struct Setting {
    const char* label;
    codec::Spec spec;
};
const Setting kSettings[] = {
    {"none", {}},
    {"bf16", {.id = CodecId::Bf16}},
    {"int8", {.id = CodecId::Int8}},
    {"int4", {.id = CodecId::Int4}},
    {"int4 stochastic", {.id = CodecId::Int4, .rounding = codec::Rounding::Stochastic}},
    {"sign", {.id = CodecId::Sign}},
    {"topk 25 % bf16", {.id = CodecId::TopK, .density = 0.25, .topk_values = codec::TopKValues::Bf16}},
    {"topk 25 % int4", {.id = CodecId::TopK, .density = 0.25}},
    {"topk 10 % int4", {.id = CodecId::TopK, .density = 0.10}},
    {"topk 5 % int4", {.id = CodecId::TopK, .density = 0.05}},
    {"topk 1 % int4", {.id = CodecId::TopK, .density = 0.01}},
    {"deadzone step 0.25", {.id = CodecId::Deadzone, .step = 0.25}},
    {"deadzone step 0.5", {.id = CodecId::Deadzone, .step = 0.5}},
    {"deadzone step 1", {.id = CodecId::Deadzone, .step = 1}},
    {"deadzone step 2", {.id = CodecId::Deadzone, .step = 2}},
    {"deadzone step 3", {.id = CodecId::Deadzone, .step = 3}},
    {"deadzone step 4", {.id = CodecId::Deadzone, .step = 4}},
};

struct Coded {
    double bits = 0;
    double error = 0;  // |x - y|^2 / |x|^2
};
Coded code(const codec::Spec& spec, const codec::Layout& layout, std::span<const float> values) {
    const auto bytes = codec::encode(spec, layout, values, 1).value();
    double away = 0, all = 0;
    const auto add = [&](std::uint64_t first, std::span<const float> slice) {
        for (std::size_t i = 0; i < slice.size(); ++i) {
            const double x = values[first + i], difference = x - static_cast<double>(slice[i]);
            away += difference * difference;
            all += x * x;
        }
    };
    codec::decode(spec.id, layout, bytes, add).value();
    return {8.0 * static_cast<double>(bytes.size()) / static_cast<double>(values.size()), away / all};
}

// The finest step that keeps within the bytes of another codec.
Coded deadzone_within(double bits, const codec::Layout& layout, std::span<const float> values) {
    Coded coded;
    for (double step = 0.01; step < 64; step *= 1.01) {
        coded = code({.id = CodecId::Deadzone, .step = step}, layout, values);
        if (coded.bits <= bits) break;
    }
    return coded;
}

void print_table(const std::string& title, const codec::Layout& layout, std::span<const float> values) {
    std::printf("\n%s: %zu values, %u groups\n\n", title.c_str(), values.size(), layout.groups);
    std::printf(
        "| codec | bits/value | of bf16 | error | deadzone, no larger: bits | error "
        "|\n|---|---|---|---|---|---|\n");
    for (const Setting& setting : kSettings) {
        const Coded own = code(setting.spec, layout, values);
        std::printf("| %s | %.3f | 1/%.1f | %.5f |", setting.label, own.bits, 16 / own.bits, own.error);
        if (setting.spec.id == CodecId::Deadzone || own.bits > 8.9) {
            std::printf(" | |\n");
        } else {
            const Coded other = deadzone_within(own.bits, layout, values);
            std::printf(" %.3f | %.5f |%s\n", other.bits, other.error,
                        other.error > own.error ? " WORSE" : "");
        }
        std::fflush(stdout);
    }
}

struct Source {
    const char* model;
    const char* data;  // a JSON array of texts, or of rows with instruction, context and response
    job::Method method;
};
const Source kSources[] = {
    {"tinystories-656k", "tinystories/wikitext_1000.json", job::Method::Lora},
    {"stories260K", "dolly-10clients/local_training_3.json", job::Method::Lora},
    {"babyllama-tok105", "tinystories/tinystories_1000.json", job::Method::Lora},
    {"stories260K", "tinystories/wikitext_1000.json", job::Method::Full},
};

Path as_jsonl(const Path& from) {
    const json rows = json::parse(read_file(from).value());
    std::string lines;
    for (const json& row : rows) {
        const json line = row.is_string() ? json{{"text", row}}
                                          : json{{"instruction", row["instruction"]},
                                                 {"input", row["context"]},
                                                 {"output", row["response"]}};
        lines += line.dump() + "\n";
    }
    const Path path = std::filesystem::temp_directory_path() / "fedllm-rate-distortion.jsonl";
    write_file_atomically(path, std::as_bytes(std::span(lines))).value();
    return path;
}

// Two rounds of a client: from the start, and on from there.
void run_source(const Source& source, const Path& assets, std::uint32_t steps) {
    job::JobSpec job;
    job.method = source.method;
    job.lora.rank = 16;
    job.lora.alpha = 32;
    job.train.local_steps = steps;
    job.train.sequence_length = 128;
    const auto workspace = Workspace::open(assets / "models" / source.model, 2).value();
    const Path data = as_jsonl(assets / "data" / source.data);
    const auto dataset =
        client::data::Dataset::load_jsonl(
            data, workspace->tokenizer(),
            {.sequence_length = 128, .eval_fraction = 0, .examples_max = 4000, .eval_path = {}})
            .value();
    std::filesystem::remove(data);
    auto state = tools::local::initial_state(workspace->model(), job).value();
    const auto trainer = client::train::Trainer::create(workspace->model(), job, workspace->pool()).value();
    for (std::uint64_t round = 1; round <= 2; ++round) {
        const std::vector<float> start(state.params.values().begin(), state.params.values().end());
        const client::train::TrainRequest request{.seed = round, .first_step = (round - 1) * steps};
        const auto outcome = trainer->train(state.params, dataset.train(), request).value();
        std::vector<float> delta(state.params.values().begin(), state.params.values().end());
        for (std::size_t i = 0; i < delta.size(); ++i) delta[i] -= start[i];
        char title[200];
        std::snprintf(title, sizeof title, "%s, %s, %s, round %llu (loss %.3f -> %.3f)", source.model,
                      source.method == job::Method::Full ? "all weights" : "LoRA rank 16", source.data,
                      static_cast<unsigned long long>(round), outcome.loss_first, outcome.loss_last);
        print_table(title, codec::layout_of(state.params.manifest()), delta);
    }
}

}  // namespace
}  // namespace fedllm::bench

int main(int argc, char** argv) {
    const fedllm::Path assets = argc > 1 ? argv[1] : "../shared/assets";
    const auto steps = static_cast<std::uint32_t>(argc > 2 ? std::atoi(argv[2]) : 60);
    for (const auto& source : fedllm::bench::kSources) fedllm::bench::run_source(source, assets, steps);
}
