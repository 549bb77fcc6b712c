// step_bench [--tiny] [PART_OF_NAME]: whole training steps through the engine that ships, over the shapes of
// real models with random weights, beside a ceiling that the same GPU reached in the same run, and beside the
// step's products done apart (separate_lora.hpp).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "client/cuda_engine/cuda_backend.hpp"
#include "client/cuda_engine/fp8_weights.hpp"
#include "client/cuda_engine/plan.hpp"
#include "common/base/clock.hpp"
#include "common/base/text.hpp"
#include "tests/bench/cuda/separate_lora.hpp"

namespace fedllm::bench {
namespace {

using client::cuda_engine::make_plan;
using client::cuda_engine::multiplies_fp8;
using client::cuda_engine::PanelStorage;
using client::cuda_engine::Plan;
using client::engine::Keep;
using client::engine::Network;
using kernels::Operands;
using kernels::WeightType;

struct Variant {
    std::string name;
    WeightType base = WeightType::BF16;
    Operands operands = Operands::Bf16;
    Keep keep = Keep::Activations;
    PanelStorage storage = PanelStorage::Resident;
    double goal = 0;  // tokens per second on an H200; 0: none
};

struct Case {
    StepModel model;
    std::vector<Variant> variants;
};

std::vector<Case> cases(bool tiny) {
    const Variant ring{"NF4, panels in a ring", WeightType::NF4, Operands::Bf16, Keep::Activations,
                       PanelStorage::Ring};
    const Variant again{"NF4, ring, layers computed again", WeightType::NF4, Operands::Bf16,
                        Keep::LayerInputs, PanelStorage::Ring};
    const auto bf16 = [](double goal) { return Variant{.name = "bf16", .goal = goal}; };
    const auto fp8 = [](double goal) {
        return Variant{.name = "FP8", .operands = Operands::E4m3, .goal = goal};
    };
    if (tiny) return {{tiny_model(), {bf16(0), fp8(0), again}}};
    return {{llama_8b(), {bf16(19000), fp8(30000), ring, again}},
            {llama_1b(), {bf16(100000), fp8(0), ring}},
            {smollm2_135m(), {bf16(0), fp8(0)}}};
}

struct Timed {
    double seconds = 0;  // of a step, median
    double loss = 0, gradient_norm = 0;
    std::size_t steps = 0;
};

// The first step runs unrecorded and the second is recorded: neither counts.
Result<Timed> train(client::engine::Engine& engine, const StepModel& model, tensor::ParamSet& params,
                    double seconds) {
    const RandomBatch batch(model);
    std::vector<double> times;
    Timed timed;
    FEDLLM_TRY_VOID(engine.begin_training(params));
    double end = 0;
    for (std::uint64_t step = 1; times.empty() || monotonic_seconds() < end; ++step) {
        const double begin = monotonic_seconds();
        FEDLLM_TRY_VOID(engine.start(batch.view(), {{.learning_rate = 1e-4}, step, 1.0}));
        FEDLLM_TRY(const client::engine::StepReport report, engine.finish());
        if (step == 2) end = monotonic_seconds() + seconds;
        if (step > 2) times.push_back(monotonic_seconds() - begin);
        timed.loss = report.loss.loss_sum / static_cast<double>(report.loss.tokens);
        timed.gradient_norm = report.gradient_norm;
        if (!std::isfinite(timed.loss) || !std::isfinite(timed.gradient_norm) || timed.gradient_norm <= 0)
            return make_error(Errc::DeviceFailed, "step " + std::to_string(step) + ": loss " +
                                                      std::to_string(timed.loss) + ", gradient norm " +
                                                      std::to_string(timed.gradient_norm));
    }
    FEDLLM_TRY_VOID(engine.end_training());
    timed.steps = times.size();
    std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                     times.end());
    timed.seconds = times[times.size() / 2];
    return timed;
}

// AdamW moves whatever has a gradient: a tensor that stayed had none.
Result<void> check_moved(const tensor::ParamSet& before, const tensor::ParamSet& after) {
    for (std::size_t i = 0; i < before.manifest().tensors().size(); ++i) {
        const auto was = before.tensor(i), is = after.tensor(i);
        if (std::equal(was.begin(), was.end(), is.begin()))
            return make_error(Errc::DeviceFailed, before.manifest().tensors()[i].name + " has no gradient");
        if (!std::all_of(is.begin(), is.end(), [](float value) { return std::isfinite(value); }))
            return make_error(Errc::DeviceFailed, before.manifest().tensors()[i].name + " is not finite");
    }
    return {};
}

// Variants that a GPU (or this build) does not have are no failure: Unsupported.
Result<void> measure(const Meter& meter, const StepModel& model, const Variant& variant, double apart) {
    const RandomBase base(model, variant.base, variant.operands);
    tensor::ParamSet params = model.params();
    const tensor::ParamSet before = params;
    FEDLLM_TRY(Network network, Network::create(model.config, base.weights(), params.manifest(), model.lora));
    const client::engine::Limits limits{model.rows, model.tokens, variant.keep};
    const std::size_t free = cuda::free_memory_bytes();
    const Plan wanted = make_plan(network, limits, variant.storage);
    client::cuda_engine::CudaOptions options;
    if (variant.storage == PanelStorage::Ring) options.memory_bytes_max = wanted.total();
    FEDLLM_TRY(const auto backend, make_backend(options));
    const Plan plan =
        make_plan(network, limits, backend->buffer_bytes_max(), [] { return multiplies_fp8(0); });
    if (variant.operands == Operands::E4m3 && plan.storage != PanelStorage::Fp8)
        return make_error(Errc::Unsupported, plan.without_fp8);
    std::printf("  plan: %s\n", plan.text().c_str());
    const double begin = monotonic_seconds();
    FEDLLM_TRY(const auto engine, backend->make(std::move(network), limits, {}));
    const double made = monotonic_seconds() - begin;
    FEDLLM_TRY(const Timed timed, train(*engine, model, params, meter.tiny() ? 0 : 4));
    const std::size_t left = cuda::free_memory_bytes();
    FEDLLM_TRY_VOID(check_moved(before, params));
    const double tokens = static_cast<double>(model.step_tokens()) / timed.seconds;
    std::printf("  %.1f ms/step (median of %zu), %.0f tokens/s", 1e3 * timed.seconds, timed.steps, tokens);
    if (variant.goal > 0)
        std::printf(" (%.0f %% of the goal for an H200, %.0f)", 100 * tokens / variant.goal, variant.goal);
    const double rate = model.operations() / timed.seconds;
    std::printf("\n  %.1f TFLOP/s, %.0f %% of the bf16 ceiling", rate / 1e12,
                meter.bf16_rate() > 0 ? 100 * rate / meter.bf16_rate() : 0.0);
    if (apart > 0)
        std::printf("; the products apart alone take %.2f of the whole step", apart / timed.seconds);
    std::printf("\n  memory: planned %s, measured %s; made in %.1f s; loss %.3f, gradient norm %.3g\n",
                format_bytes(plan.total()).c_str(), format_bytes(free > left ? free - left : 0).c_str(), made,
                timed.loss, timed.gradient_norm);
    return {};
}

// True where nothing failed.
bool measure(const Meter& meter, const Case& one) {
    const StepModel& model = one.model;
    bool good = true;
    double apart = 0;
    const auto wanted = [&](const Variant& variant) { return meter.wants(model.name + ", " + variant.name); };
    if (std::none_of(one.variants.begin(), one.variants.end(), wanted)) return true;
    std::printf("\n%s, %zu x %zu tokens, LoRA r%u on all projections, %.2f TFLOP a step\n",
                model.name.c_str(), model.rows, model.tokens, model.lora.rank, model.operations() / 1e12);
    try {
        apart = separate_products_seconds(meter, model);
        std::printf(
            "  cuBLASLt, projections and adapters apart: %.1f ms for the products alone (no attention, "
            "norms, RoPE, SwiGLU, residuals, loss, optimiser)\n",
            1e3 * apart);
    } catch (const cuda::GpuError& error) {
        good = false;
        std::printf("  products apart FAILED: %s\n", error.what());
    }
    for (const Variant& variant : one.variants) {
        if (!wanted(variant)) continue;
        std::printf("%s, %s\n", model.name.c_str(), variant.name.c_str());
        const Result<void> done = measure(meter, model, variant, apart);
        if (!done) {
            const bool absent = done.error().code == Errc::Unsupported;
            good = good && absent;
            std::printf("  %s: %s\n", absent ? "not available" : "FAILED", done.error().message.c_str());
        }
        std::fflush(stdout);
    }
    return good;
}

}  // namespace
}  // namespace fedllm::bench

int main(int argc, char** argv) {
    using namespace fedllm::bench;
    bool tiny = false;
    std::string filter;
    for (int i = 1; i < argc; ++i) {
        if (std::strcmp(argv[i], "--tiny") == 0)
            tiny = true;
        else
            filter = argv[i];
    }
    if (cuda::device_count() == 0) {
        std::printf("skipped: no GPU\n");
        return 77;
    }
    try {
        const Meter meter(filter, tiny);
        bool good = true;
        for (const Case& one : cases(tiny)) good = measure(meter, one) && good;
        return good ? 0 : 1;
    } catch (const cuda::GpuError& error) {
        std::printf("FAILED: %s\n", error.what());
        return 1;
    }
}
