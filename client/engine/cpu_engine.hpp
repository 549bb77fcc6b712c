// Engine on the threads of a CPU: Transformer, and AdamW over one ParamSet.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "client/engine/engine.hpp"
#include "client/engine/transformer.hpp"
#include "kernels/device/thread_pool.hpp"

namespace fedllm::client::engine {

// The same calls give the same bits, whatever the number of threads. `pool` must outlive it.
class CpuEngine final : public Engine {
public:
    static Result<std::unique_ptr<CpuEngine>> create(kernels::ThreadPool& pool, Network network,
                                                     Limits limits, std::vector<Run> frozen = {});

    const Network& network() const override { return transformer_.network(); }
    const Limits& limits() const override { return transformer_.limits(); }
    Result<void> begin_training(tensor::ParamSet& params) override;
    Result<void> start(const BatchView& batch, const OptimizerStep& step) override;
    Result<StepReport> finish() override { return report_; }
    Result<void> end_training() override;
    Result<void> begin_evaluation(const tensor::ParamSet& params) override;
    Result<StepResult> loss(const BatchView& batch) override;
    std::span<const float> losses() const override { return transformer_.losses(); }
    Result<void> logits(const BatchView& batch, std::span<const std::int32_t> places,
                        kernels::Matrix out) override;

private:
    CpuEngine(kernels::ThreadPool& pool, Transformer transformer, std::vector<Run> frozen)
        : pool_(&pool), transformer_(std::move(transformer)), frozen_(std::move(frozen)) {}
    Result<StepResult> add_gradients(const BatchView& batch);
    void update(const OptimizerStep& step, double norm);

    kernels::ThreadPool* pool_;
    Transformer transformer_;
    std::vector<Run> frozen_;
    tensor::ParamSet* trained_ = nullptr;          // from begin_training() to end_training()
    const tensor::ParamSet* evaluated_ = nullptr;  // since begin_evaluation()
    tensor::ParamSet gradients_;
    std::vector<float> first_moment_, second_moment_;
    StepReport report_;
};

class CpuBackend final : public Backend {
public:
    // Micro-batches are cut by job and model alone, so that machines of any size give the same bits.
    static constexpr std::size_t kBufferBytesMax = std::size_t{1} << 30;

    explicit CpuBackend(kernels::ThreadPool& pool) : pool_(&pool) {}

    std::string name() const override { return "cpu, " + std::to_string(pool_->threads()) + " threads"; }
    std::size_t buffer_bytes(const Network& network, const Limits& limits) const override {
        return Transformer::buffer_bytes(network, limits);
    }
    std::size_t buffer_bytes_max() const override { return kBufferBytesMax; }
    Result<std::unique_ptr<Engine>> make(Network network, Limits limits, std::vector<Run> frozen) override;

private:
    kernels::ThreadPool* pool_;
};

}  // namespace fedllm::client::engine
