#include "client/cuda_engine/cuda_backend.hpp"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "client/cuda_engine/cuda_engine.hpp"
#include "client/cuda_engine/guarded.hpp"
#include "common/base/text.hpp"
#include "kernels/attention/op_cuda.hpp"

namespace fedllm::client::cuda_engine {
namespace {

using engine::Limits;
using engine::Network;
using kernels::cuda::DeviceProperties;

Error refused(const std::string& why) { return make_error(Errc::DeviceFailed, why); }

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

// What engines may take now. A fiftieth is left to others, and to CUDA's own needs.
Result<std::size_t> available(const CudaOptions& options) {
    return guarded(options.device, [&]() -> Result<std::size_t> {
        const std::size_t free = kernels::cuda::free_memory_bytes();
        const std::size_t most = free - free / 50;
        return options.memory_bytes_max == 0 ? most : std::min(most, options.memory_bytes_max);
    });
}

Error too_little(const std::string& gpu, const Plan& plan, std::size_t bytes) {
    return refused(gpu + " has too little memory: " + format_bytes(plan.total()) + " are needed, " +
                   format_bytes(bytes) + " are free. The plan was that " + plan.text() +
                   ". Smaller: base.storage nf4, train.checkpointing layers, fewer train.batch_rows, a "
                   "shorter train.sequence_length");
}

class CudaBackend final : public engine::Backend {
public:
    CudaBackend(const CudaOptions& options, DeviceProperties gpu) : options_(options), gpu_(std::move(gpu)) {}

    std::string name() const override { return gpu_.name + ", " + format_bytes(gpu_.memory_bytes); }
    // Weights and trained values count: what they leave is what a micro-batch may take.
    std::size_t buffer_bytes(const Network& network, const Limits& limits) const override {
        return std::min(make_plan(network, limits, PanelStorage::Resident).total(),
                        make_plan(network, limits, PanelStorage::Ring).total());
    }
    std::size_t buffer_bytes_max() const override {
        const auto bytes = available(options_);
        return bytes ? *bytes : 0;
    }

    Result<std::unique_ptr<engine::Engine>> make(Network network, Limits limits,
                                                 std::vector<engine::Run> frozen) override {
        FEDLLM_TRY_VOID(check_supported(network));
        FEDLLM_TRY_VOID(check_limits(network, limits));
        FEDLLM_TRY(const std::size_t bytes, available(options_));
        const Plan plan = make_plan(network, limits, bytes, [&] { return can_fp8(); });
        if (plan.total() > bytes) return too_little(gpu_.name, plan, bytes);
        FEDLLM_TRY(auto made,
                   CudaEngine::create(options_.device, std::move(network), limits, std::move(frozen), plan));
        return std::unique_ptr<engine::Engine>(std::move(made));
    }

private:
    // Asked once.
    bool can_fp8() {
        if (!fp8_) {
            const auto answer = guarded(options_.device, []() -> Result<bool> { return multiplies_fp8(); });
            fp8_ = answer && *answer;
        }
        return *fp8_;
    }

    CudaOptions options_;
    DeviceProperties gpu_;
    std::optional<bool> fp8_;
};

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
    auto found = guarded(options.device, [&]() -> Result<DeviceProperties> {
        (void)kernels::cuda::free_memory_bytes();  // fails where another program holds the GPU alone
        return kernels::cuda::device_properties();
    });
    if (!found) {
        return refused(
            found.error().message +
            "; another program may hold it alone (nvidia-smi shows which), or the driver is too old");
    }
    if (found->compute_major < 8) {
        return refused(gpu + " (" + found->name + ") has compute capability " +
                       std::to_string(found->compute_major) + "." + std::to_string(found->compute_minor) +
                       "; 8.0 or more is needed");
    }
    return std::unique_ptr<engine::Backend>(std::make_unique<CudaBackend>(options, std::move(*found)));
}

}  // namespace fedllm::client::cuda_engine
