// Engine on an NVIDIA GPU: one stream, and one recorded graph per shape of a micro-batch.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "client/cuda_engine/batch_feed.hpp"
#include "client/cuda_engine/computation.hpp"
#include "client/cuda_engine/device_weights.hpp"
#include "client/cuda_engine/plan.hpp"
#include "client/engine/engine.hpp"
#include "kernels/adamw/op_cuda.hpp"
#include "kernels/cuda/communicator.hpp"

namespace fedllm::client::cuda_engine {

// Lifecycle and concurrency as Engine. Evaluation does not come between begin_training() and end_training().
// The same calls of one engine give the same bits. Another one may choose other algorithms for its products,
// which are timed (kernels/matmul), and so round elsewhere.
class CudaEngine final : public engine::Engine {
public:
    // `network` reads the host's memory while the engine is made, and not afterwards.
    static Result<std::unique_ptr<CudaEngine>> create(unsigned device, engine::Network network,
                                                      engine::Limits limits, std::vector<engine::Run> frozen,
                                                      const Plan& plan);
    ~CudaEngine() override;

    const engine::Network& network() const override { return host_network_; }
    const engine::Limits& limits() const override { return limits_; }
    std::string plan() const override { return plan_; }
    Result<void> begin_training(tensor::ParamSet& params) override;
    Result<void> start(const engine::BatchView& batch, const engine::OptimizerStep& step) override;
    Result<engine::StepReport> finish() override;
    Result<void> end_training() override;
    Result<void> begin_evaluation(const tensor::ParamSet& params) override;
    Result<engine::StepResult> loss(const engine::BatchView& batch) override;
    std::span<const float> losses() const override { return losses_; }
    Result<void> logits(const engine::BatchView& batch, std::span<const std::int32_t> places,
                        kernels::Matrix out) override;

    // start(), finish() and loss() in stages, for one of several GPUs (replicated_engine.hpp), which have
    // checked the batch. A step: begin_step(), add_gradients() of at most limits().rows rows as often as
    // there are, and, once the sums hold those of all GPUs, end_step(). `counted` is of the whole batch.
    unsigned device() const { return device_; }
    Result<void> begin_step(const engine::OptimizerStep& step, std::uint64_t counted);
    Result<void> add_gradients(const engine::BatchView& rows);
    kernels::cuda::Addend<float> gradients() const { return {&stream_, gradients_.data()}; }
    kernels::cuda::Addend<double> loss_sum() const { return {&stream_, buffers_.head().loss_sum}; }
    Result<void> end_step();
    Result<bool> reported() const;  // finish() will not wait
    // Instead of end_training(): whether this GPU's values are `params` to the bit, which is DeviceFailed
    // else.
    Result<void> end_training_as(const tensor::ParamSet& params);
    Result<void> start_loss(const engine::BatchView& batch);
    Result<engine::StepResult> finish_loss();

private:
    enum class Work : std::uint8_t { Training, Evaluation };
    struct Recording {
        Work work = Work::Training;
        MicroBatch batch;
        auto operator<=>(const Recording&) const = default;
    };
    struct Report {
        double loss_sum = 0;
        kernels::cuda::AdamWStep step;
    };

    CudaEngine(unsigned device, engine::Network network, engine::Limits limits,
               std::vector<engine::Run> frozen, const Plan& plan);
    Result<void> upload(const tensor::ParamSet& params);
    MicroBatch shape_of(const engine::BatchView& batch, std::size_t counted) const;
    void run(Work work, const MicroBatch& batch);
    void run_update();
    void update();

    unsigned device_;
    engine::Network host_network_;
    engine::Limits limits_;
    std::vector<engine::Run> frozen_;
    std::string plan_;
    kernels::cuda::Stream stream_;
    Transfer transfer_;
    DeviceWeights weights_;
    engine::Network network_;  // with views into the GPU's memory
    std::size_t count_;        // of trained values
    kernels::cuda::DeviceBuffer<float> params_, gradients_, first_moment_, second_moment_;
    Groups groups_;
    Panels panels_;
    Buffers buffers_;
    Computation computation_;
    BatchFeed feed_;

    kernels::cuda::DeviceBuffer<kernels::cuda::AdamWStep> step_;
    kernels::cuda::PinnedBuffer<kernels::cuda::AdamWStep> next_step_;
    kernels::cuda::PinnedBuffer<Report> report_;
    kernels::cuda::Event reported_;
    std::uint64_t counted_ = 0;  // of the step or the loss that was started
    tensor::ParamSet* trained_ = nullptr;
    std::vector<float> losses_;

    std::map<Recording, kernels::cuda::Graph> graphs_;
    std::set<Recording> met_;  // shapes (chunks 0) that have run unrecorded
    kernels::cuda::Graph update_graph_;
    bool updated_ = false;
};

// How many of a batch's tokens have a target.
std::uint64_t counted_tokens(const engine::BatchView& batch);

}  // namespace fedllm::client::cuda_engine
