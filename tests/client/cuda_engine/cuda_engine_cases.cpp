// The engine for GPUs against CpuEngine's numbers (tests/golden/engine.txt), and against itself.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string_view>

#include "client/cuda_engine/cuda_backend.hpp"
#include "client/cuda_engine/cuda_engine.hpp"
#include "kernels/cross_entropy/op.hpp"
#include "tests/client/cuda_engine/outcome.hpp"
#include "tests/client/cuda_engine/products_case.hpp"
#include "tests/kernels/cuda/harness.hpp"

namespace fedllm::client::cuda_engine::cases {
namespace {

using kernels::cuda::cases::Harness;

// Values between two operations are rounded to bf16, by up to 2^-9 of their size, some 10 times in a layer on
// the way up, as often on the way down, and 5 times around them. Independent errors come to the root of that
// many; sums over the tokens that count, 32 at least, are better by the root of 32. Each bound is twice that;
// for gradients four times, as softmax and norms take differences there. A norm is one of many gradients, but
// after ten steps AdamW has followed their signs.
double bound_of(const std::string& name, std::size_t layers) {
    constexpr double kRounding = 1.0 / 512;
    const double up = 5.0 + 10.0 * static_cast<double>(layers);
    if (name == "loss" || name == "step_losses") return 2 * std::sqrt(up / 32) * kRounding;
    return name.starts_with("gradient ") ? 4 * std::sqrt(2 * up) * kRounding : 2 * std::sqrt(up) * kRounding;
}

Scenario in_fp8(Scenario scenario) {
    scenario.operands = kernels::Operands::E4m3;
    scenario.name += ", FP8";
    return scenario;
}

// A value in e4m3 is off by up to 2^-4 of its size; by 0.026 in the root of the mean square, as values lie
// anywhere between two codes and between two powers of two. A product of two such rows is off by 0.037 of its
// own size, and 4 L + 1 of them follow each other on the way up, as many on the way down. Errors are
// independent, as in bound_of(); half as much again is allowed, and twice that for gradients. Losses are no
// larger than their logits, and their mean over 32 tokens is better by the root of 32: 2 % for two layers.
double fp8_bound_of(const std::string& name, std::size_t layers) {
    constexpr double kRounding = 0.037;
    const double up = 1.0 + 4.0 * static_cast<double>(layers);
    if (name == "loss" || name == "step_losses") return std::sqrt(up / 32) * kRounding;
    return name.starts_with("gradient ") ? 3 * std::sqrt(2 * up) * kRounding
                                         : 1.5 * std::sqrt(up) * kRounding;
}

using BoundOf = double (*)(const std::string& name, std::size_t layers);
BoundOf bound_for(const Scenario& scenario) {
    return scenario.operands == kernels::Operands::E4m3 ? fp8_bound_of : bound_of;
}

std::unique_ptr<engine::Backend> backend(std::size_t memory_bytes_max = 0) {
    return make_backend({.devices = {0}, .memory_bytes_max = memory_bytes_max}).value();
}
std::unique_ptr<engine::Engine> make_engine(const Setting& setting, engine::Limits limits,
                                            std::size_t memory_bytes_max = 0) {
    return backend(memory_bytes_max)->make(setting.network(), limits, setting.frozen()).value();
}

void compare(Harness& harness, const std::string& name, const std::vector<double>& got,
             const std::vector<double>& want, double most) {
    const double off = distance(got, want);
    char text[200];
    std::snprintf(text, sizeof text, "%s is off by %.3g of its size, allowed is %.3g", name.c_str(), off,
                  most);
    harness.check(off <= most, text);
    if (std::getenv("FEDLLM_SHOW") != nullptr) std::printf("  %-60s %.5f\n", name.c_str(), off);
}

Outcome golden_case(Harness& harness, const Scenario& scenario, const Outcome& want) {
    harness.begin(scenario.name);
    const Setting setting(scenario);
    const auto engine = make_engine(setting, setting.limits());
    const Outcome got = measure(*engine, setting);
    harness.check(got.size() == want.size(), "other quantities than the golden file has");
    for (const auto& [name, numbers] : want) {
        const auto found = got.find(name);
        if (found == got.end()) {
            harness.check(false, name + " is missing");
            continue;
        }
        compare(harness, name, found->second, numbers, bound_for(scenario)(name, scenario.config.layers));
    }
    return got;
}

// On a GPU another engine may have chosen other algorithms for its products: then within bounds.
void compare_engines(Harness& harness, const Outcome& got, const Outcome& want, const Scenario& scenario,
                     const char* what) {
    if (kernels::cuda::device_properties().name == "CPU emulation of a GPU")
        return harness.check(got == want, what);
    for (const auto& [name, numbers] : want)
        compare(harness, what + (", " + name), got.at(name), numbers,
                bound_for(scenario)(name, scenario.config.layers));
}

// Neither what is kept, nor where panels lie, nor an earlier training that failed changes a bit: every
// combination for one scenario, the one that differs in all for the others.
void same_bits_case(Harness& harness, const Scenario& scenario) {
    harness.begin(scenario.name + ", the same bits");
    Scenario shorter = scenario;
    shorter.steps = 3;  // as such, recorded, recorded
    const bool every = scenario.name == "llama_ragged";
    const bool fp8 = scenario.operands == kernels::Operands::E4m3;  // a ring is bf16
    const Setting setting(shorter);
    const auto plain = make_engine(setting, setting.limits());
    const Outcome want = measure(*plain, setting);
    if (every || fp8) harness.check(measure(*plain, setting) == want, "a second time");

    engine::Limits inputs = setting.limits();
    inputs.keep = engine::Keep::LayerInputs;
    if (every || fp8)
        compare_engines(harness, measure(*make_engine(setting, inputs), setting), want, scenario,
                        "layers computed again");
    const auto network = setting.network();
    for (const engine::Limits& limits : {inputs, setting.limits()}) {
        if (fp8 || (limits.keep == engine::Keep::Activations && !every)) continue;
        const Plan ring = make_plan(network, limits, PanelStorage::Ring);
        const auto made = CudaEngine::create(0, network, limits, setting.frozen(), ring);
        compare_engines(harness, measure(**made, setting), want, scenario, "panels in a ring");
    }
}

engine::StepReport step(engine::Engine& engine, const Setting& setting, tensor::ParamSet& params) {
    const Setting::Batch batch = setting.batch(1, setting.scenario().rows);
    engine.begin_training(params).value();
    engine.start(batch.view(), {{.learning_rate = 1e-3}, 1, 1.0}).value();
    const engine::StepReport report = engine.finish().value();
    engine.end_training().value();
    return report;
}

void not_finite_case(Harness& harness, const Scenario& scenario) {
    harness.begin(scenario.name + ", not finite");
    const Setting setting(scenario);
    const auto engine = make_engine(setting, setting.limits());
    tensor::ParamSet good = setting.params();
    const engine::StepReport want = step(*engine, setting, good);
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
        tensor::ParamSet params = setting.params();
        params.values()[5] = bad;
        const tensor::ParamSet before = params;
        const engine::StepReport report = step(*engine, setting, params);
        harness.check(!std::isfinite(report.loss.loss_sum) || !std::isfinite(report.gradient_norm),
                      "it shows");
        harness.check(std::equal(params.values().begin(), params.values().end(), before.values().begin(),
                                 [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }),
                      "no parameter changes");
        params = setting.params();
        const engine::StepReport again = step(*engine, setting, params);
        harness.check(again.loss.loss_sum == want.loss.loss_sum &&
                          again.gradient_norm == want.gradient_norm && params == good,
                      "nothing of it stays");
    }
}

void frozen_case(Harness& harness, const Scenario& scenario) {
    harness.begin(scenario.name + ", frozen values");
    const Setting setting(scenario);
    const auto engine = make_engine(setting, setting.limits());
    const tensor::ParamSet before = setting.params();
    tensor::ParamSet after = before;
    const engine::StepReport report = step(*engine, setting, after);
    harness.check(report.gradient_norm > 0, "there is a gradient");
    for (std::size_t i = 0; i < before.manifest().tensors().size(); ++i) {
        const bool kept =
            std::equal(before.tensor(i).begin(), before.tensor(i).end(), after.tensor(i).begin());
        const std::string& name = before.manifest().tensors()[i].name;
        harness.check(kept == name.ends_with("lora_A.weight"), name);
    }
}

void nothing_counts_case(Harness& harness, const Scenario& scenario) {
    harness.begin(scenario.name + ", nothing counts");
    const Setting setting(scenario);
    const auto engine = make_engine(setting, setting.limits());
    tensor::ParamSet params = setting.params();
    Setting::Batch batch = setting.batch(1, setting.scenario().rows);
    std::fill(batch.targets.begin(), batch.targets.end(), kernels::kIgnoreIndex);
    engine->begin_evaluation(params).value();
    const engine::StepResult loss = engine->loss(batch.view()).value();
    harness.check(loss.tokens == 0 && loss.loss_sum == 0 && engine->losses().empty(), "no loss");
    engine->begin_training(params).value();
    engine->start(batch.view(), {{}, 1, 1.0}).value();
    const engine::StepReport report = engine->finish().value();
    engine->end_training().value();
    harness.check(report.loss.tokens == 0 && report.loss.loss_sum == 0 && report.gradient_norm == 0,
                  "no step");
    harness.check(params == setting.params(), "and no change");
}

void refusals_case(Harness& harness, Scenario scenario) {
    harness.begin("refusals");
    const auto refuses = [&](const auto& result, Errc code, const char* what) {
        harness.check(!result && result.error().code == code, what);
        if (!result) std::printf("  %s\n", result.error().message.c_str());
    };
    const Setting setting(scenario);
    refuses(make_backend({.devices = {1000}}), Errc::DeviceFailed, "a GPU that is not there");
    refuses(backend(1 << 20)->make(setting.network(), setting.limits(), {}), Errc::DeviceFailed,
            "little memory");
    const auto engine = make_engine(setting, setting.limits());
    Setting::Batch batch = setting.batch(1, 2);
    batch.tokens[3] = static_cast<std::int32_t>(scenario.config.vocab);
    engine->begin_evaluation(setting.params()).value();
    refuses(engine->loss(batch.view()), Errc::InvalidData, "a token beyond the vocabulary");
    scenario.config.hidden = 36;
    const Setting odd(scenario);
    refuses(backend()->make(odd.network(), odd.limits(), {}), Errc::Unsupported, "rows that are not aligned");
}

// The faster plan where it fits, the smaller one elsewhere; words for both.
void plan_case(Harness& harness, const Scenario& scenario) {
    harness.begin("plans");
    const Setting setting(scenario);
    const auto network = setting.network();
    const engine::Limits limits = setting.limits();
    const Plan resident = make_plan(network, limits, PanelStorage::Resident);
    const Plan ring = make_plan(network, limits, PanelStorage::Ring);
    harness.check(ring.total() < resident.total(), "a ring is smaller for four layers in NF4");
    const auto never = [] { return false; };
    harness.check(make_plan(network, limits, resident.total(), never).storage == PanelStorage::Resident,
                  "it fits");
    harness.check(make_plan(network, limits, resident.total() - 1, never).storage == PanelStorage::Ring,
                  "it does not");
    const auto small = backend(ring.total());
    harness.check(small->buffer_bytes(network, limits) == ring.total(), "what a backend says it takes");
    harness.check(small->make(network, limits, {}).has_value(), "and takes");
    std::printf("  %s\n  %s\n", resident.text().c_str(), ring.text().c_str());
}

void fp8_case(Harness& harness, const Scenario& plain, const Outcome& want) {
    if (!multiplies_fp8(0)) return;
    const Outcome got = golden_case(harness, in_fp8(plain), want);
    harness.check(distance(got.at("logits"), want.at("logits")) > bound_of("logits", plain.config.layers),
                  "it is FP8");
}

// What the job wants where it cannot be: the same bits as without, and words.
void no_fp8_case(Harness& harness, Scenario scenario) {
    harness.begin(scenario.name + ", without FP8");
    scenario.steps = 3;
    const Setting plain(scenario), setting(in_fp8(scenario));
    const auto network = setting.network();
    const engine::Limits limits = setting.limits();
    const Plan fp8 = make_plan(network, limits, PanelStorage::Fp8);
    const auto plan = [&](std::size_t bytes, bool can) {
        return make_plan(network, limits, bytes, [&] { return can; });
    };
    harness.check(plan(fp8.total(), true).storage == PanelStorage::Fp8, "it fits");
    const Plan none = plan(fp8.total(), false), tight = plan(fp8.total() - 1, true);
    harness.check(none.storage == PanelStorage::Resident && !none.without_fp8.empty(), "no such GPU");
    harness.check(tight.storage != PanelStorage::Fp8 && !tight.without_fp8.empty(), "it does not fit");
    harness.check(make_plan(plain.network(), limits, fp8.total(),
                            [&] {
                                harness.check(false, "nobody asks where no job does");
                                return true;
                            })
                      .without_fp8.empty(),
                  "and nothing is said");
    std::printf("  %s\n  %s\n  %s\n", fp8.text().c_str(), none.text().c_str(), tight.text().c_str());

    const Outcome want = measure(*make_engine(plain, limits), plain);
    for (const Plan& other : {none, make_plan(network, limits, PanelStorage::Ring)}) {
        const auto made = CudaEngine::create(0, network, limits, setting.frozen(), other);
        compare_engines(harness, measure(**made, setting), want, scenario, "computed in bf16");
    }
}

// Longer than the pinned pieces it goes through.
void transfer_case(Harness& harness) {
    harness.begin("transfers");
    const kernels::cuda::Stream stream;
    Transfer transfer(stream);
    std::vector<unsigned char> sent((std::size_t{20} << 20) + 12345), received(sent.size());
    for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<unsigned char>(i * 2654435761U >> 13);
    const kernels::cuda::DeviceBuffer<unsigned char> device(sent.size());
    transfer.to_device(device.data(), sent.data(), sent.size());
    transfer.to_host(received.data(), device.data(), sent.size());
    harness.check(sent == received, "what comes back");
}

// FEDLLM_CASE=qwen3: scenarios of that name alone, or products; FEDLLM_SHOW=1: what is measured.
void cases(Harness& harness) {
    const std::vector<Scenario> all = scenarios();
    std::ifstream file("tests/golden/engine.txt");
    const auto golden = read(file);
    harness.begin("the golden file");
    harness.check(golden.size() == all.size(), "run make_engine_golden");
    const char* const only = std::getenv("FEDLLM_CASE");
    const auto with = [&](const char* name, const auto& body) {
        if (only == nullptr || std::string_view(name).starts_with(only)) body(harness, scenario(all, name));
    };
    for (const Scenario& one : all) {
        with(one.name.c_str(), [&](Harness& to, const Scenario& run) {
            const auto found = golden.find(run.name);
            if (found != golden.end()) golden_case(to, run, found->second);
        });
    }
    for (const char* name : {"llama_ragged", "llama_some", "qwen3_full", "gpt2_lora"})
        with(name, same_bits_case);
    with("llama_ragged", not_finite_case);
    with("llama_ragged", plan_case);
    for (const char* name :
         {"llama_nf4", "llama_ragged", "llama_some", "qwen2_lora", "gpt2_lora", "llama_chunks"}) {
        with(name, [&](Harness& to, const Scenario& run) { fp8_case(to, run, golden.at(run.name)); });
    }
    with("llama_nf4", no_fp8_case);
    with("llama_nf4", [](Harness& to, const Scenario& run) { not_finite_case(to, in_fp8(run)); });
    with("llama_some", [](Harness& to, const Scenario& run) { same_bits_case(to, in_fp8(run)); });
    with("freeze_a", frozen_case);
    with("llama_lora", nothing_counts_case);
    with("llama_lora", refusals_case);
    if (only == nullptr) transfer_case(harness);
    if (only == nullptr || std::string_view("products").starts_with(only))
        products_case(harness, scenario(all, "llama_ragged"));
}

}  // namespace
}  // namespace fedllm::client::cuda_engine::cases

int main() {
    return fedllm::kernels::cuda::cases::run(
        [](auto& harness) { fedllm::client::cuda_engine::cases::cases(harness); });
}
