#include "client/engine/cpu_engine.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/adamw/op.hpp"
#include "kernels/cross_entropy/op.hpp"

namespace fedllm::client::engine {

Result<std::unique_ptr<CpuEngine>> CpuEngine::create(kernels::ThreadPool& pool, Network network,
                                                     Limits limits, std::vector<Run> frozen) {
    FEDLLM_TRY(auto transformer, Transformer::create(pool, std::move(network), limits));
    return std::unique_ptr<CpuEngine>(new CpuEngine(pool, std::move(transformer), std::move(frozen)));
}

Result<std::unique_ptr<Engine>> CpuBackend::make(Network network, Limits limits, std::vector<Run> frozen) {
    FEDLLM_TRY(auto made, CpuEngine::create(*pool_, std::move(network), limits, std::move(frozen)));
    return std::unique_ptr<Engine>(std::move(made));
}

Result<void> CpuEngine::begin_training(tensor::ParamSet& params) {
    FEDLLM_CHECK(params.values().size() == network().parameters(), "parameters have the network's manifest");
    if (!(gradients_.manifest() == params.manifest())) gradients_ = tensor::ParamSet(params.manifest());
    first_moment_.assign(params.values().size(), 0.0F);
    second_moment_.assign(params.values().size(), 0.0F);
    trained_ = &params;
    return {};
}

Result<void> CpuEngine::end_training() {
    trained_ = nullptr;
    return {};
}

Result<void> CpuEngine::start(const BatchView& batch, const OptimizerStep& step) {
    FEDLLM_CHECK(trained_ != nullptr, "begin_training() comes first");
    FEDLLM_TRY(report_.loss, add_gradients(batch));
    report_.gradient_norm = 0;
    if (!std::isfinite(report_.loss.loss_sum)) return {};
    for (const Run& run : frozen_) {
        const auto values = gradients_.values().subspan(run.first, run.count);
        std::fill(values.begin(), values.end(), 0.0F);
    }
    report_.gradient_norm = kernels::l2_norm(*pool_, gradients_.values());
    if (std::isfinite(report_.gradient_norm)) update(step, report_.gradient_norm);
    return {};
}

// Micro-batch by micro-batch.
Result<StepResult> CpuEngine::add_gradients(const BatchView& batch) {
    std::fill(gradients_.values().begin(), gradients_.values().end(), 0.0F);
    const auto ignored = std::count(batch.targets.begin(), batch.targets.end(), kernels::kIgnoreIndex);
    const std::size_t counted = batch.targets.size() - static_cast<std::size_t>(ignored);
    const float scale = 1.0F / static_cast<float>(std::max<std::size_t>(1, counted));
    StepResult sum;
    for (std::size_t row = 0; row < batch.rows; row += limits().rows) {
        const std::size_t rows = std::min(limits().rows, batch.rows - row);
        FEDLLM_TRY(const StepResult part,
                   transformer_.forward_backward(batch.slice(row, rows), *trained_, gradients_, scale));
        sum.loss_sum += part.loss_sum;
        sum.tokens += part.tokens;
    }
    return sum;
}

// Clips as torch.nn.utils.clip_grad_norm_ does, and takes the step: run by run between what is frozen, which
// counts in no norm.
void CpuEngine::update(const OptimizerStep& step, double norm) {
    const double clip = step.gradient_clip > 0 ? std::min(1.0, step.gradient_clip / (norm + 1e-6)) : 1.0;
    const auto advance = [&](std::size_t first, std::size_t end) {
        const auto part = [&](std::span<float> values) { return values.subspan(first, end - first); };
        if (first == end) return;
        kernels::adamw(*pool_, step.adamw, step.number, static_cast<float>(clip), part(gradients_.values()),
                       part(trained_->values()), part(first_moment_), part(second_moment_));
    };
    std::size_t first = 0;
    for (const Run& run : frozen_) {
        advance(first, run.first);
        first = run.first + run.count;
    }
    advance(first, trained_->values().size());
}

Result<void> CpuEngine::begin_evaluation(const tensor::ParamSet& params) {
    FEDLLM_CHECK(params.values().size() == network().parameters(), "parameters have the network's manifest");
    evaluated_ = &params;
    return {};
}

Result<StepResult> CpuEngine::loss(const BatchView& batch) {
    FEDLLM_CHECK(evaluated_ != nullptr, "begin_evaluation() comes first");
    return transformer_.forward_loss(batch, *evaluated_);
}

Result<void> CpuEngine::logits(const BatchView& batch, std::span<const std::int32_t> places,
                               kernels::Matrix out) {
    FEDLLM_CHECK(evaluated_ != nullptr, "begin_evaluation() comes first");
    return transformer_.logits(batch, *evaluated_, places, out);
}

}  // namespace fedllm::client::engine
