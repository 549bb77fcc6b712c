#include "client/train/devices.hpp"

#include "client/cuda_engine/cuda_backend.hpp"

namespace fedllm::client::train {

Result<std::unique_ptr<Devices>> Devices::open(Device wanted, unsigned threads, std::vector<unsigned> gpus) {
    std::unique_ptr<Devices> devices(new Devices(wanted, threads));
    if (wanted == Device::Cpu) return devices;
    const bool several = gpus.size() > 1;  // nobody names them to train on a CPU
    auto gpu = cuda_engine::make_backend({.devices = std::move(gpus)});
    if (gpu) {
        devices->gpu_ = std::move(*gpu);
    } else if (wanted == Device::Cuda || several) {
        return with_context(gpu.error(), several ? "gpus" : "device: cuda");
    } else {
        devices->cpu_because_ = gpu.error().message;
    }
    return devices;
}

Result<std::unique_ptr<Trainer>> Devices::trainer(
    const model::BaseModel& model, const job::JobSpec& job,
    const std::function<Result<void>(const std::string& why)>& before_cpu) {
    if (gpu_) {
        auto trainer = Trainer::create(model, job, *gpu_);
        if (trainer || wanted_ == Device::Cuda) return trainer;
        const Errc code = trainer.error().code;
        if (code != Errc::Unsupported && code != Errc::DeviceFailed && code != Errc::TooLarge) return trainer;
        FEDLLM_TRY_VOID(before_cpu(trainer.error().message));
    }
    return Trainer::create(model, job, cpu_);
}

}  // namespace fedllm::client::train
