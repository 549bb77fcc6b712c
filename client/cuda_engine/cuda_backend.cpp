#include "client/cuda_engine/cuda_backend.hpp"

#include <algorithm>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "client/cuda_engine/cuda_engine.hpp"
#include "client/cuda_engine/guarded.hpp"
#include "client/cuda_engine/replicated_engine.hpp"
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

Error too_little(const std::string& gpu, const Plan& plan, std::size_t bytes) {
    return refused(gpu + " has too little memory: " + format_bytes(plan.total()) + " are needed, " +
                   format_bytes(bytes) + " are free. The plan was that " + plan.text() +
                   ". Smaller: base.storage nf4, train.checkpointing layers, fewer train.batch_rows, a "
                   "shorter train.sequence_length");
}

// One GPU that can be used.
class Gpu {
public:
    Gpu(unsigned of, DeviceProperties found, std::size_t bytes)
        : device_(of), properties_(std::move(found)), memory_bytes_max_(bytes) {}

    unsigned device() const { return device_; }
    std::string name() const { return properties_.name + ", " + format_bytes(properties_.memory_bytes); }

    // What engines may take now. A fiftieth is left to others, and to CUDA's own needs.
    Result<std::size_t> available() const {
        return guarded(device_, [&]() -> Result<std::size_t> {
            const std::size_t free = kernels::cuda::free_memory_bytes();
            const std::size_t most = free - free / 50;
            return memory_bytes_max_ == 0 ? most : std::min(most, memory_bytes_max_);
        });
    }
    Result<std::unique_ptr<CudaEngine>> make(Network network, Limits limits,
                                             std::vector<engine::Run> frozen) {
        FEDLLM_TRY_VOID(check_supported(network));
        FEDLLM_TRY_VOID(check_limits(network, limits));
        FEDLLM_TRY(const std::size_t bytes, available());
        const Plan plan = make_plan(network, limits, bytes, [&] { return can_fp8(); });
        if (plan.total() > bytes) return too_little(properties_.name, plan, bytes);
        return CudaEngine::create(device_, std::move(network), limits, std::move(frozen), plan);
    }

private:
    // Asked once.
    bool can_fp8() {
        if (!fp8_) fp8_ = multiplies_fp8(device_);
        return *fp8_;
    }

    unsigned device_;
    DeviceProperties properties_;
    std::size_t memory_bytes_max_;
    std::optional<bool> fp8_;
};

// Engines on one GPU, or one for each that share their batches.
class CudaBackend final : public engine::Backend {
public:
    // `communicator` null: one GPU.
    CudaBackend(std::vector<Gpu> gpus, std::shared_ptr<kernels::cuda::Communicator> communicator)
        : gpus_(std::move(gpus)), communicator_(std::move(communicator)) {}

    std::string name() const override {
        std::string names;
        for (const Gpu& gpu : gpus_) names += (names.empty() ? "" : " + ") + gpu.name();
        return names;
    }
    // Weights and trained values count: what they leave is what a micro-batch may take. Of the GPU with the
    // most rows, and the least memory.
    std::size_t buffer_bytes(const Network& network, const Limits& limits) const override {
        return std::min(make_plan(network, of_one(limits), PanelStorage::Resident).total(),
                        make_plan(network, of_one(limits), PanelStorage::Ring).total());
    }
    std::size_t buffer_bytes_max() const override {
        std::size_t least = std::numeric_limits<std::size_t>::max();
        for (const Gpu& gpu : gpus_) {
            const auto bytes = gpu.available();
            least = std::min(least, bytes ? *bytes : 0);
        }
        return least;
    }

    Result<std::unique_ptr<engine::Engine>> make(Network network, Limits limits,
                                                 std::vector<engine::Run> frozen) override {
        std::vector<std::unique_ptr<CudaEngine>> engines;
        for (Gpu& gpu : gpus_) {
            FEDLLM_TRY(auto made, gpu.make(network, of_one(limits), frozen));
            engines.push_back(std::move(made));
        }
        if (communicator_ == nullptr) return std::unique_ptr<engine::Engine>(std::move(engines.front()));
        return std::unique_ptr<engine::Engine>(
            std::make_unique<ReplicatedEngine>(std::move(engines), limits, communicator_));
    }

private:
    Limits of_one(Limits limits) const {
        limits.rows = most_rows(limits.rows, gpus_.size());
        return limits;
    }

    std::vector<Gpu> gpus_;
    std::shared_ptr<kernels::cuda::Communicator> communicator_;  // with its engines
};

Result<Gpu> find(unsigned device, std::size_t memory_bytes_max) {
    const unsigned count = kernels::cuda::device_count();
    const std::string gpu = "GPU " + std::to_string(device);
    if (count == 0) {
        return refused(
            "there is no NVIDIA GPU here, or no driver for it that knows CUDA 13 (nvidia-smi shows both)");
    }
    if (device >= count) return refused(gpu + ": there are " + std::to_string(count) + ", counted from 0");
    auto found = guarded(device, [&]() -> Result<DeviceProperties> {
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
    return Gpu(device, std::move(*found), memory_bytes_max);
}

}  // namespace

Result<std::unique_ptr<engine::Backend>> make_backend(const CudaOptions& options) {
    const std::set<unsigned> distinct(options.devices.begin(), options.devices.end());
    if (distinct.empty() || distinct.size() < options.devices.size())
        return make_error(Errc::InvalidArgument, "GPUs to train on: none is named, or one twice");
    std::vector<Gpu> gpus;
    for (const unsigned device : options.devices) {
        FEDLLM_TRY(Gpu gpu, find(device, options.memory_bytes_max));
        gpus.push_back(std::move(gpu));
    }
    std::shared_ptr<kernels::cuda::Communicator> communicator;
    if (gpus.size() > 1) {
        FEDLLM_TRY(communicator, guarded(gpus.front().device(), [&] {
                       return Result(std::make_shared<kernels::cuda::Communicator>(options.devices));
                   }));
    }
    return std::unique_ptr<engine::Backend>(
        std::make_unique<CudaBackend>(std::move(gpus), std::move(communicator)));
}

}  // namespace fedllm::client::cuda_engine
