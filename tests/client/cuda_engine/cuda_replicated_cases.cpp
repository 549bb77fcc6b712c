// The engine for several GPUs against the one for one GPU.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "client/cuda_engine/cuda_backend.hpp"
#include "client/cuda_engine/cuda_engine.hpp"
#include "kernels/cross_entropy/op.hpp"
#include "tests/client/cuda_engine/outcome.hpp"
#include "tests/kernels/cuda/harness.hpp"

namespace fedllm::client::cuda_engine::cases {
namespace {

using kernels::cuda::cases::Harness;

bool on_emulation() { return kernels::cuda::device_properties().name == "CPU emulation of a GPU"; }

std::unique_ptr<engine::Engine> make_engine(const Setting& setting, std::size_t gpus, std::size_t rows) {
    std::vector<unsigned> devices;
    for (unsigned device = 0; device < gpus; ++device) devices.push_back(device);
    engine::Limits limits = setting.limits();
    limits.rows = rows;
    const auto backend = make_backend({.devices = devices}).value();
    return backend->make(setting.network(), limits, setting.frozen()).value();
}

// Rows one by one add up in the same order as GPUs with a row each: the same bits, as far as GPUs take the
// same algorithms for their products. Else the first step's gradients differ by the roundings of as many
// additions as there are tokens, independent ones, in f32; later some values round to another bf16
// (cuda_engine_cases.cpp).
enum class Expected { SameBits, SameSums };

double bound_of(const std::string& name, const Scenario& run, Expected expected) {
    if (expected == Expected::SameBits && on_emulation()) return 0;
    const double up = 5.0 + 10.0 * static_cast<double>(run.config.layers);
    if (name.starts_with("step_") || !on_emulation()) return 4 * std::sqrt(2 * up) / 512;
    const double additions = static_cast<double>(run.rows * run.tokens);
    return name.starts_with("gradient") ? 2 * std::sqrt(additions) * std::ldexp(1.0, -24) : 0;
}

void compare(Harness& harness, const Scenario& run, const Outcome& got, const Outcome& want,
             Expected expected) {
    for (const auto& [name, numbers] : want) {
        const double off = distance(got.at(name), numbers), most = bound_of(name, run, expected);
        if (std::getenv("FEDLLM_SHOW") != nullptr) std::printf("  %-60s %.3g\n", name.c_str(), off);
        char text[200];
        std::snprintf(text, sizeof text, "%s is off by %.3g of its size, allowed is %.3g", name.c_str(), off,
                      most);
        harness.check(off <= most, text);
    }
}

struct Shape {
    std::size_t gpus, rows, micro_rows;
    std::size_t micro_rows_of_one;  // of the single GPU
    int steps;
};
void equal_case(Harness& harness, Scenario run, const Shape& shape, Expected expected) {
    run.rows = shape.rows;
    run.micro_rows = shape.micro_rows;
    run.steps = shape.steps;
    harness.begin(run.name + " on " + std::to_string(shape.gpus) + " GPUs, " + std::to_string(shape.rows) +
                  " rows");
    const Setting setting(run);
    const auto many = make_engine(setting, shape.gpus, shape.micro_rows);
    Outcome want = measure_steps(*make_engine(setting, 1, shape.micro_rows_of_one), setting);
    want.merge(measure_evaluation(*make_engine(setting, 1, shape.micro_rows), setting));
    compare(harness, run, measure(*many, setting), want, expected);
}

struct Step {
    engine::StepReport report;
    tensor::ParamSet params;
    bool replicas_equal = false;
};
Step step(const Setting& setting, std::size_t gpus, const tensor::ParamSet& params,
          const Setting::Batch& batch) {
    const auto engine = make_engine(setting, gpus, gpus);
    Step taken{{}, params, false};
    engine->begin_training(taken.params).value();
    engine->start(batch.view(), {{.learning_rate = 1e-3}, 1, 1.0}).value();
    taken.report = engine->finish().value();
    taken.replicas_equal = engine->end_training().has_value();
    return taken;
}

void nothing_counts_case(Harness& harness, const Scenario& scenario) {
    harness.begin("nothing counts on one of two GPUs");
    const Setting setting(scenario);
    Setting::Batch batch = setting.batch(1, 2);
    std::fill_n(batch.targets.begin(), batch.tokens_per_row, kernels::kIgnoreIndex);
    const Step two = step(setting, 2, setting.params(), batch),
               one = step(setting, 1, setting.params(), batch);
    harness.check(two.replicas_equal, "both step");
    harness.check(two.report.loss.tokens == one.report.loss.tokens, "tokens");
    if (!on_emulation()) return;
    harness.check(two.report.loss.loss_sum == one.report.loss.loss_sum, "loss");
    harness.check(two.params == one.params, "parameters");
}

// A token whose embedding is NaN, in the second GPU's row alone.
void not_finite_case(Harness& harness, const Scenario& scenario) {
    harness.begin("not finite on one of two GPUs");
    const Setting setting(scenario);
    Setting::Batch batch = setting.batch(1, 2);
    constexpr std::int32_t kBad = 7;
    std::replace(batch.tokens.begin(), batch.tokens.end(), kBad, kBad + 1);
    batch.tokens.back() = kBad;
    batch.targets.back() = 0;
    tensor::ParamSet params = setting.params();
    const auto tensors = params.manifest().tensors();
    const auto table = std::find_if(tensors.begin(), tensors.end(), [](const auto& spec) {
        return spec.name == "model.embed_tokens.weight";
    });
    params.tensor(static_cast<std::size_t>(table - tensors.begin()))[kBad * scenario.config.hidden] =
        std::numeric_limits<float>::quiet_NaN();
    const Step two = step(setting, 2, params, batch);
    harness.check(!std::isfinite(two.report.loss.loss_sum), "it shows");
    harness.check(two.replicas_equal, "both skip the step");
    harness.check(
        std::memcmp(two.params.values().data(), params.values().data(), params.values().size_bytes()) == 0,
        "no parameter changes");
}

void refusals_case(Harness& harness) {
    harness.begin("refusals");
    const auto refuses = [&](const auto& result, Errc code, const char* what) {
        harness.check(!result && result.error().code == code, what);
        if (!result) std::printf("  %s\n", result.error().message.c_str());
    };
    refuses(make_backend({.devices = {}}), Errc::InvalidArgument, "no GPU");
    refuses(make_backend({.devices = {0, 0}}), Errc::InvalidArgument, "a GPU twice");
    refuses(make_backend({.devices = {0, 1000}}), Errc::DeviceFailed, "a GPU that is not there");
}

void cases(Harness& harness) {
    const std::vector<Scenario> all = scenarios();
    refusals_case(harness);
    const unsigned gpus = kernels::cuda::device_count();
    if (gpus < 2) return static_cast<void>(std::printf("one GPU: nothing to share\n"));
    equal_case(harness, scenario(all, "llama_lora"), {2, 2, 2, 1, 10}, Expected::SameBits);
    equal_case(harness, scenario(all, "qwen3_full"), {2, 1, 1, 1, 3}, Expected::SameBits);
    nothing_counts_case(harness, scenario(all, "gpt2_lora"));
    not_finite_case(harness, scenario(all, "llama_full"));
    if (gpus < 3) return;
    equal_case(harness, scenario(all, "freeze_a"), {3, 3, 3, 1, 3}, Expected::SameBits);
    equal_case(harness, scenario(all, "llama_nf4"), {3, 7, 5, 5, 10}, Expected::SameSums);
}

}  // namespace
}  // namespace fedllm::client::cuda_engine::cases

int main() {
    setenv("FEDLLM_EMULATION_GPUS", "3", 1);
    return fedllm::kernels::cuda::cases::run(
        [](auto& harness) { fedllm::client::cuda_engine::cases::cases(harness); });
}
