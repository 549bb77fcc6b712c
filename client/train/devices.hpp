// What this machine trains on: its GPUs, or the threads of its CPU.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/engine/cpu_engine.hpp"
#include "client/train/device.hpp"
#include "client/train/memory_plan.hpp"
#include "client/train/trainer.hpp"
#include "kernels/device/thread_pool.hpp"

namespace fedllm::client::train {

// Lifecycle: unmovable; trainers must not outlive it. Concurrency: one call at a time, from any thread.
class Devices {
public:
    // Fails for Device::Cuda, and for several `gpus`, where one cannot be used; the error says why.
    static Result<std::unique_ptr<Devices>> open(Device wanted, unsigned threads,
                                                 std::vector<unsigned> gpus = {0});
    Devices(const Devices&) = delete;
    Devices& operator=(const Devices&) = delete;

    bool has_gpu() const { return gpu_ != nullptr; }
    std::string name() const { return gpu_ ? gpu_->name() : cpu_.name(); }
    // Empty with a GPU, or where the CPU was wanted.
    const std::string& cpu_because() const { return cpu_because_; }

    // Where the GPU cannot train this job (its memory, a shape) and Device::Auto was wanted, the CPU does:
    // `before_cpu` is told why, and may refuse.
    Result<std::unique_ptr<Trainer>> trainer(
        const model::BaseModel& model, const job::JobSpec& job,
        const std::function<Result<void>(const std::string& why)>& before_cpu);

private:
    Devices(Device wanted, unsigned threads) : wanted_(wanted), pool_(threads), cpu_(pool_) {}

    Device wanted_;
    kernels::ThreadPool pool_;
    engine::CpuBackend cpu_;
    std::unique_ptr<engine::Backend> gpu_;
    std::string cpu_because_;
};

}  // namespace fedllm::client::train
