// Loss curves of one small random model with its frozen weights in bf16, in NF4 and multiplied in FP8: the
// cheaper ones must stay beside the first and learn as much.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "client/cuda_engine/cuda_backend.hpp"
#include "client/model/manifests.hpp"
#include "tests/client/cuda_engine/scenario.hpp"
#include "tests/kernels/cuda/harness.hpp"

namespace fedllm::client::cuda_engine::cases {
namespace {

using kernels::WeightType;
using kernels::cuda::cases::Harness;

// Over the emulation small and short, for it shows only that it runs and where it goes.
Scenario small_model(bool emulated) {
    Scenario made;
    made.config.family = model::find_family("llama");
    made.config.hidden = emulated ? 32 : 256;
    made.config.layers = emulated ? 1 : 4;
    made.config.heads = 4;
    made.config.kv_heads = 2;
    made.config.head_size = emulated ? 16 : 64;
    made.config.intermediate = emulated ? 64 : 704;
    made.config.vocab = emulated ? 61 : 1000;
    made.config.context = 128;
    made.config.norm_epsilon = 1e-5F;
    made.rows = made.micro_rows = emulated ? 2 : 8;
    made.tokens = emulated ? 24 : 128;
    made.steps = emulated ? 6 : 30;
    made.spread = 1.2F / std::sqrt(static_cast<float>(made.config.hidden));
    made.lora = {.rank = 8, .alpha = 16, .target_modules = {}};
    for (const auto& projection : model::projections(made.config))
        made.lora.target_modules.emplace_back(projection.name);
    return made;
}

// One batch again and again, which can be learned by heart.
std::vector<double> curve(const Scenario& scenario) {
    const Setting setting(scenario);
    const auto backend = make_backend({}).value();
    const auto engine = backend->make(setting.network(), setting.limits(), {}).value();
    tensor::ParamSet params = setting.params();
    const Setting::Batch batch = setting.batch(1, scenario.rows);
    std::vector<double> losses;
    engine->begin_training(params).value();
    for (int step = 1; step <= scenario.steps; ++step) {
        engine->start(batch.view(), {{.learning_rate = 5e-3}, static_cast<std::uint64_t>(step), 1.0}).value();
        const engine::StepReport report = engine->finish().value();
        losses.push_back(report.loss.loss_sum / static_cast<double>(report.loss.tokens));
    }
    engine->end_training().value();
    return losses;
}

// `error` is how far a product is off, relative to its size. Those of a layer's seven products and the head's
// come to the root of their number in the logits, which have a spread of about 1.2 (small_model()); a mean
// over n tokens moves by that over the root of n, and by half its square whatever n is. Twice that is
// allowed.
double bound(const Scenario& scenario, double error) {
    const double products = 7.0 * static_cast<double>(scenario.config.layers) + 1;
    const double logit = 1.2 * error * std::sqrt(products);
    const double tokens = static_cast<double>(scenario.rows * scenario.tokens) / 2;
    return 2 * (logit / std::sqrt(tokens) + logit * logit / 2);
}

void beside(Harness& harness, const std::vector<double>& want, Scenario scenario, const char* name,
            double error) {
    harness.begin(name);
    const std::vector<double> got = curve(scenario);
    const double most = bound(scenario, error);
    double off = 0;
    for (std::size_t i = 0; i < want.size(); ++i) off = std::max(off, std::fabs(got[i] - want[i]));
    const double learned = want.front() - want.back();
    std::printf("  %-5s %.4f to %.4f, bf16 %.4f to %.4f; at most %.4f apart, allowed %.4f\n", name,
                got.front(), got.back(), want.front(), want.back(), off, most);
    harness.check(off <= most, "the curve stays beside bf16's");
    harness.check(most < learned / 2, "what is learned is more than what is allowed");
}

void cases(Harness& harness) {
    const bool emulated = kernels::cuda::device_properties().name == "CPU emulation of a GPU";
    const Scenario scenario = small_model(emulated);
    harness.begin("bf16");
    const std::vector<double> want = curve(scenario);
    harness.check(want.back() < want.front(), "it learns");
    // NF4 of normal values is off by 9 % of their size, root of the mean square; E4M3 rounds to 3 bits behind
    // the leading one, by 2.6 %, both operands.
    Scenario nf4 = scenario;
    nf4.base = WeightType::NF4;
    nf4.quantised = true;
    beside(harness, want, nf4, "NF4", 0.09);
    Scenario fp8 = scenario;
    fp8.operands = kernels::Operands::E4m3;
    beside(harness, want, fp8, "FP8", 0.026 * std::sqrt(2.0));
}

}  // namespace
}  // namespace fedllm::client::cuda_engine::cases

int main() {
    return fedllm::kernels::cuda::cases::run(
        [](auto& harness) { fedllm::client::cuda_engine::cases::cases(harness); });
}
