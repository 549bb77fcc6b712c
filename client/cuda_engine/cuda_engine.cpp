#include "client/cuda_engine/cuda_engine.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "client/cuda_engine/guarded.hpp"
#include "kernels/cross_entropy/op.hpp"

namespace fedllm::client::cuda_engine {
namespace {

using engine::BatchView;
using engine::Limits;
using engine::Network;
using engine::OptimizerStep;
using engine::Run;
using engine::StepReport;
using engine::StepResult;

constexpr std::size_t kComparedValues = std::size_t{1} << 20;  // at a time

}  // namespace

std::uint64_t counted_tokens(const BatchView& batch) {
    const auto ignored = std::count(batch.targets.begin(), batch.targets.end(), kernels::kIgnoreIndex);
    return batch.targets.size() - static_cast<std::size_t>(ignored);
}

Result<std::unique_ptr<CudaEngine>> CudaEngine::create(unsigned device, Network network, Limits limits,
                                                       std::vector<Run> frozen, const Plan& plan) {
    return guarded(device, [&]() -> Result<std::unique_ptr<CudaEngine>> {
        return std::unique_ptr<CudaEngine>(
            new CudaEngine(device, std::move(network), limits, std::move(frozen), plan));
    });
}

CudaEngine::CudaEngine(unsigned device, Network network, Limits limits, std::vector<Run> frozen,
                       const Plan& plan)
    : device_(device),
      host_network_(std::move(network)),
      limits_(limits),
      frozen_(std::move(frozen)),
      plan_(plan.text()),
      transfer_(stream_),
      weights_(host_network_, plan.linear(), transfer_),
      network_(host_network_.with_base(weights_.views())),
      count_(network_.parameters()),
      params_(count_),
      gradients_(count_),
      first_moment_(count_),
      second_moment_(count_),
      groups_(host_network_, params_.data(), plan.storage),
      panels_(stream_, network_, host_network_, groups_, params_.data(), plan.storage, transfer_),
      buffers_(network_, groups_, limits_),
      computation_(stream_, network_, limits_, groups_, panels_, buffers_,
                   {params_.data(), gradients_.data()}, transfer_),
      feed_(network_, limits_, buffers_.batch()),
      step_(1),
      next_step_(1),
      report_(1) {
    losses_.reserve(limits_.rows * limits_.tokens_per_row);
    buffers_.clear(stream_);
    stream_.synchronize();
    transfer_.release();
}

// What goes belongs to this GPU, whichever the caller's thread is on.
CudaEngine::~CudaEngine() {
    (void)guarded(device_, []() -> Result<void> { return {}; });
}

Result<void> CudaEngine::upload(const tensor::ParamSet& params) {
    FEDLLM_CHECK(params.values().size() == count_, "parameters have the network's manifest");
    FEDLLM_CHECK(trained_ == nullptr, "end_training() comes first");
    return guarded(device_, [&]() -> Result<void> {
        const kernels::cuda::Range range("fedllm upload");
        transfer_.to_device(params_.data(), params.values().data(), params_.bytes());
        panels_.refresh();
        return {};
    });
}

Result<void> CudaEngine::begin_training(tensor::ParamSet& params) {
    FEDLLM_CHECK(count_ > 0, "nothing is trained");
    FEDLLM_TRY_VOID(upload(params));
    trained_ = &params;
    return guarded(device_, [&]() -> Result<void> {
        transfer_.clear(first_moment_.data(), first_moment_.bytes());
        transfer_.clear(second_moment_.data(), second_moment_.bytes());
        buffers_.clear(stream_);  // a NaN of an earlier training does not stay in a gap
        return {};
    });
}

Result<void> CudaEngine::end_training() {
    FEDLLM_CHECK(trained_ != nullptr, "begin_training() comes first");
    tensor::ParamSet& params = *std::exchange(trained_, nullptr);
    return guarded(device_, [&]() -> Result<void> {
        const kernels::cuda::Range range("fedllm download");
        transfer_.to_host(params.values().data(), params_.data(), params_.bytes());
        return {};
    });
}

Result<void> CudaEngine::end_training_as(const tensor::ParamSet& params) {
    FEDLLM_CHECK(trained_ != nullptr, "begin_training() comes first");
    trained_ = nullptr;
    return guarded(device_, [&]() -> Result<void> {
        std::vector<float> here(std::min(count_, kComparedValues));
        for (std::size_t first = 0; first < count_; first += here.size()) {
            const std::size_t bytes = std::min(here.size(), count_ - first) * sizeof(float);
            transfer_.to_host(here.data(), params_.data() + first, bytes);
            if (std::memcmp(here.data(), params.values().data() + first, bytes) == 0) continue;
            return make_error(Errc::DeviceFailed, "GPU " + std::to_string(device_) +
                                                      " has trained other values than the first GPU: one of "
                                                      "them computes wrongly");
        }
        return {};
    });
}

Result<void> CudaEngine::start(const BatchView& batch, const OptimizerStep& step) {
    FEDLLM_CHECK(trained_ != nullptr, "begin_training() comes first");
    FEDLLM_TRY_VOID(check_batch(host_network_, limits_, batch));
    FEDLLM_TRY_VOID(begin_step(step, counted_tokens(batch)));
    for (std::size_t row = 0; row < batch.rows; row += limits_.rows)
        FEDLLM_TRY_VOID(add_gradients(batch.slice(row, std::min(limits_.rows, batch.rows - row))));
    return end_step();
}

Result<void> CudaEngine::begin_step(const OptimizerStep& step, std::uint64_t counted) {
    counted_ = counted;
    return guarded(device_, [&]() -> Result<void> {
        *next_step_.data() = kernels::cuda::make_adamw_step(step.adamw, step.number, step.gradient_clip);
        kernels::cuda::copy_to_device(stream_, step_.data(), next_step_.data(), step_.bytes());
        transfer_.clear(gradients_.data(), gradients_.bytes());
        transfer_.clear(buffers_.head().loss_sum, sizeof(double));
        return {};
    });
}

Result<void> CudaEngine::add_gradients(const BatchView& rows) {
    FEDLLM_CHECK(rows.rows <= limits_.rows, "the batch must fit the limits given at creation");
    return guarded(device_, [&]() -> Result<void> {
        const kernels::cuda::Range range("fedllm micro-batch");
        const float scale = 1.0F / static_cast<float>(std::max<std::uint64_t>(1, counted_));
        run(Work::Training, shape_of(rows, feed_.put(stream_, rows, scale)));
        return {};
    });
}

Result<void> CudaEngine::end_step() {
    return guarded(device_, [&]() -> Result<void> {
        const kernels::cuda::Range range("fedllm update");
        run_update();
        kernels::cuda::copy_to_host(stream_, &report_.data()->loss_sum, buffers_.head().loss_sum,
                                    sizeof(double));
        kernels::cuda::copy_to_host(stream_, &report_.data()->step, step_.data(), step_.bytes());
        reported_.record(stream_);
        return {};
    });
}

Result<bool> CudaEngine::reported() const {
    return guarded(device_, [&]() -> Result<bool> { return reported_.reached(); });
}

Result<StepReport> CudaEngine::finish() {
    return guarded(device_, [&]() -> Result<StepReport> {
        const kernels::cuda::Range range("fedllm wait");
        reported_.synchronize();
        const Report& report = *report_.data();
        const bool finite = std::isfinite(report.loss_sum);
        return StepReport{{report.loss_sum, counted_}, finite ? report.step.norm : 0.0};
    });
}

Result<void> CudaEngine::begin_evaluation(const tensor::ParamSet& params) { return upload(params); }

Result<StepResult> CudaEngine::loss(const BatchView& batch) {
    FEDLLM_TRY_VOID(check_batch(host_network_, limits_, batch));
    FEDLLM_TRY_VOID(start_loss(batch));
    return finish_loss();
}

Result<void> CudaEngine::start_loss(const BatchView& batch) {
    FEDLLM_CHECK(batch.rows <= limits_.rows, "the batch must fit the limits given at creation");
    return guarded(device_, [&]() -> Result<void> {
        const kernels::cuda::Range range("fedllm evaluation");
        transfer_.clear(buffers_.head().loss_sum, sizeof(double));
        counted_ = feed_.put(stream_, batch, 0.0F);
        run(Work::Evaluation, shape_of(batch, counted_));
        return {};
    });
}

Result<StepResult> CudaEngine::finish_loss() {
    return guarded(device_, [&]() -> Result<StepResult> {
        losses_.resize(counted_);
        StepResult result{0, counted_};
        transfer_.to_host(losses_.data(), buffers_.head().losses, counted_ * sizeof(float));
        transfer_.to_host(&result.loss_sum, buffers_.head().loss_sum, sizeof(double));
        return result;
    });
}

// Rarely wanted, of few tokens: not recorded. Chunks are half as long, for in the same memory they are f32.
Result<void> CudaEngine::logits(const BatchView& batch, std::span<const std::int32_t> places,
                                kernels::Matrix out) {
    FEDLLM_CHECK(batch.rows <= limits_.rows, "the batch must fit the limits given at creation");
    FEDLLM_CHECK(places.size() <= batch.tokens.size() && out.rows == places.size(),
                 "at most one row per token");
    FEDLLM_TRY_VOID(check_batch(host_network_, limits_, batch));
    return guarded(device_, [&]() -> Result<void> {
        feed_.put(stream_, batch, places);
        computation_.forward_head_input(shape_of(batch, places.size()));
        const HeadBuffers& head = buffers_.head();
        kernels::Matrix chunk(reinterpret_cast<float*>(head.logits.data), head.logits.rows / 2, out.cols,
                              head.logits.pitch);
        for (std::size_t first = 0; first < out.rows; first += chunk.rows) {
            const std::size_t rows = std::min(chunk.rows, out.rows - first);
            computation_.products().head_logits(head.normed.slice(first, rows), chunk.slice(0, rows));
            for (std::size_t row = 0; row < rows; ++row)
                transfer_.to_host(out.row(first + row), chunk.row(row), out.cols * sizeof(float));
        }
        // Finite where bf16 logits will be read again.
        transfer_.clear(head.logits.data, head.logits.rows * head.logits.pitch * sizeof(BF16));
        return {};
    });
}

MicroBatch CudaEngine::shape_of(const BatchView& batch, std::size_t counted) const {
    const std::size_t rows = logit_rows(limits_);
    return {batch.rows, batch.tokens_per_row, (counted + rows - 1) / rows};
}

// Unrecorded at first, so that every product is met, and the order of panels known; from then on as a graph.
void CudaEngine::run(Work work, const MicroBatch& batch) {
    if (batch.chunks == 0) return;  // nothing counts: neither loss nor gradient
    const auto enqueue = [&] {
        work == Work::Training ? computation_.forward_backward(batch) : computation_.forward_loss(batch);
    };
    if (met_.insert({work, {batch.rows, batch.tokens_per_row, 0}}).second) return enqueue();
    kernels::cuda::Graph& graph = graphs_[{work, batch}];
    if (graph.empty()) graph = kernels::cuda::Graph::record(stream_, enqueue);
    graph.launch(stream_);
}

void CudaEngine::run_update() {
    if (!std::exchange(updated_, true)) return update();
    if (update_graph_.empty()) {
        update_graph_ = kernels::cuda::Graph::record(stream_, [&] { update(); });
    }
    update_graph_.launch(stream_);
}

// Clips, and takes the step: run by run between what is frozen, which counts in no norm.
void CudaEngine::update() {
    for (const Run& run : frozen_) transfer_.clear(gradients_.data() + run.first, run.count * sizeof(float));
    kernels::cuda::clip_gradients(stream_, gradients_.data(), count_,
                                  reinterpret_cast<double*>(buffers_.scratch()), step_.data(),
                                  buffers_.head().loss_sum);
    const auto advance = [&](std::size_t first, std::size_t end) {
        if (first == end) return;
        kernels::cuda::adamw(stream_, step_.data(), end - first, gradients_.data() + first,
                             params_.data() + first, first_moment_.data() + first,
                             second_moment_.data() + first);
    };
    std::size_t first = 0;
    for (const Run& run : frozen_) {
        advance(first, run.first);
        first = run.first + run.count;
    }
    advance(first, count_);
    panels_.refresh();
}

}  // namespace fedllm::client::cuda_engine
