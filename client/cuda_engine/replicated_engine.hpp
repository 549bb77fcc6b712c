// Engine on several GPUs of one machine: the same model on each, the rows of a batch divided over them.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "client/cuda_engine/cuda_engine.hpp"
#include "kernels/cuda/communicator.hpp"

namespace fedllm::client::cuda_engine {

// Rows per GPU where `rows` are divided over `gpus`, the first ones taking what is left over.
std::size_t most_rows(std::size_t rows, std::size_t gpus);

// Lifecycle and concurrency as Engine; one thread of the host drives all GPUs. All take the same step by the
// same summed gradients and so hold the same values to the bit, which end_training() checks.
class ReplicatedEngine final : public engine::Engine {
public:
    // `engines`, in the order of the communicator's GPUs, are limited to most_rows() of `limits`.
    ReplicatedEngine(std::vector<std::unique_ptr<CudaEngine>> engines, engine::Limits limits,
                     std::shared_ptr<kernels::cuda::Communicator> communicator)
        : engines_(std::move(engines)), limits_(limits), communicator_(std::move(communicator)) {}

    const engine::Network& network() const override { return engines_.front()->network(); }
    const engine::Limits& limits() const override { return limits_; }  // of all GPUs together
    Result<void> begin_training(tensor::ParamSet& params) override;
    Result<void> start(const engine::BatchView& batch, const engine::OptimizerStep& step) override;
    Result<engine::StepReport> finish() override;
    Result<void> end_training() override;
    Result<void> begin_evaluation(const tensor::ParamSet& params) override;
    Result<engine::StepResult> loss(const engine::BatchView& batch) override;
    std::span<const float> losses() const override { return losses_; }
    Result<void> logits(const engine::BatchView& batch, std::span<const std::int32_t> places,
                        kernels::Matrix out) override;

private:
    struct Share {
        std::size_t first = 0, count = 0;  // rows
    };
    Share share(std::size_t gpu, std::size_t rows) const;
    std::size_t owner(std::size_t row, std::size_t rows) const;
    Result<void> add_gradients(const engine::BatchView& rows);
    Result<void> sum();
    Error given_up(const Error& error);

    std::vector<std::unique_ptr<CudaEngine>> engines_;
    engine::Limits limits_;
    // Shared by the backend and all its engines: joining GPUs takes seconds.
    std::shared_ptr<kernels::cuda::Communicator> communicator_;
    tensor::ParamSet* trained_ = nullptr;
    std::vector<float> losses_;
};

}  // namespace fedllm::client::cuda_engine
