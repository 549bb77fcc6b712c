#include "client/cuda_engine/cuda_backend.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "client/cuda_engine/cuda_engine.hpp"
#include "common/base/text.hpp"
#include "kernels/attention/op_cuda.hpp"

namespace fedllm::client::cuda_engine {
namespace {

using engine::Limits;
using engine::Network;
using kernels::cuda::DeviceProperties;
using kernels::cuda::GpuError;

// Rows of every matrix are read 16 bytes at a time.
Result<void> check_supported(const Network& network) {
    const model::ModelConfig& config = network.config();
    const auto fits = [](std::size_t size) { return size % 8 == 0; };
    if (config.layers > 0 && fits(config.hidden) && fits(config.intermediate) &&
        kernels::cuda::attention_supports(config.head_size)) {
        return {};
    }
    return make_error(Errc::Unsupported, "on GPUs hidden_size (" + std::to_string(config.hidden) +
                                             "), intermediate_size (" + std::to_string(config.intermediate) +
                                             ") and the size of a head (" + std::to_string(config.head_size) +
                                             ") must be multiples of 8; use the CPU");
}

class CudaBackend final : public engine::Backend {
public:
    CudaBackend(const CudaOptions& options, DeviceProperties gpu, std::size_t bytes)
        : options_(options), gpu_(std::move(gpu)), bytes_(bytes) {}

    std::string name() const override { return gpu_.name + ", " + format_bytes(gpu_.memory_bytes); }
    // Weights and trained values count: what they leave is what a micro-batch may take.
    std::size_t buffer_bytes(const Network& network, const Limits& limits) const override {
        return std::min(make_plan(network, limits, PanelStorage::Resident).total(),
                        make_plan(network, limits, PanelStorage::Ring).total());
    }
    std::size_t buffer_bytes_max() const override { return bytes_; }

    Result<std::unique_ptr<engine::Engine>> make(Network network, Limits limits,
                                                 std::vector<engine::Run> frozen) override {
        FEDLLM_TRY_VOID(check_supported(network));
        FEDLLM_TRY_VOID(check_limits(network, limits));
        const Plan plan = make_plan(network, limits, bytes_);
        if (plan.total() > bytes_) {
            return make_error(Errc::DeviceFailed,
                              gpu_.name + " has too little memory: " + format_bytes(plan.total()) +
                                  " are needed, " + format_bytes(bytes_) + " are free; " + plan.text() +
                                  ". Smaller: base.storage nf4, train.checkpointing layers, fewer "
                                  "train.batch_rows, a shorter train.sequence_length");
        }
        FEDLLM_TRY(auto made,
                   CudaEngine::create(options_.device, std::move(network), limits, std::move(frozen), plan));
        return std::unique_ptr<engine::Engine>(std::move(made));
    }

private:
    CudaOptions options_;
    DeviceProperties gpu_;
    std::size_t bytes_;
};

Error refused(const std::string& why) { return make_error(Errc::DeviceFailed, why); }

}  // namespace

Result<std::unique_ptr<engine::Backend>> make_backend(const CudaOptions& options) {
    const unsigned count = kernels::cuda::device_count();
    const std::string gpu = "GPU " + std::to_string(options.device);
    if (count == 0) {
        return refused(
            "there is no NVIDIA GPU here, or no driver for it that knows CUDA 13 (nvidia-smi shows both)");
    }
    if (options.device >= count) {
        return refused(gpu + ": there are " + std::to_string(count) + ", counted from 0");
    }
    try {
        kernels::cuda::use_device(options.device);
        const DeviceProperties& found = kernels::cuda::device_properties();
        if (found.compute_major < 8) {
            return refused(gpu + " (" + found.name + ") has compute capability " +
                           std::to_string(found.compute_major) + "." + std::to_string(found.compute_minor) +
                           "; 8.0 or more is needed");
        }
        const std::size_t free = kernels::cuda::free_memory_bytes();
        const std::size_t most =
            options.memory_bytes_max == 0 ? free : std::min(free, options.memory_bytes_max);
        return std::unique_ptr<engine::Backend>(std::make_unique<CudaBackend>(options, found, most));
    } catch (const GpuError& error) {
        return refused(gpu + " cannot be used; another program may hold it alone (nvidia-smi shows which): " +
                       error.what());
    }
}

}  // namespace fedllm::client::cuda_engine
