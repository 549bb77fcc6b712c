#include "client/train/memory_plan.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "client/engine/cpu_engine.hpp"
#include "client/model/manifests.hpp"
#include "common/base/text.hpp"
#include "kernels/device/thread_pool.hpp"

namespace fedllm::client::train {
namespace {

constexpr std::size_t kRowBytesMax = std::size_t{64} << 30;
// Code, libraries, a small tokenizer. An estimate: with it integration/memory predicts 2 % more than is
// taken.
constexpr std::size_t kProgramBytes = std::size_t{24} << 20;

}  // namespace

std::string MemoryPlan::text() const {
    const std::array<std::pair<const char*, std::size_t>, 7> parts{{{"base", base},
                                                                    {"parameters", parameters},
                                                                    {"gradients", gradients},
                                                                    {"optimizer", optimizer},
                                                                    {"buffers", buffers},
                                                                    {"update", update},
                                                                    {"program", program}}};
    std::string text = format_bytes(total());
    for (const auto& [name, bytes] : parts) {
        text += (&name == &parts.front().first ? ": " : ", ") + std::string(name) + " " + format_bytes(bytes);
    }
    return text;
}

Result<tensor::Manifest> trained_manifest(const model::ModelConfig& config, const job::JobSpec& job) {
    if (job.method == job::Method::Full) return model::full_manifest(config);
    return model::lora_manifest(config, job.lora);
}

Result<engine::Limits> choose_limits(const job::TrainSpec& train,
                                     const std::function<std::size_t(const engine::Limits&)>& bytes_of,
                                     std::size_t most) {
    engine::Limits limits{train.batch_rows, train.sequence_length,
                          train.checkpointing == job::Checkpointing::Layers ? engine::Keep::LayerInputs
                                                                            : engine::Keep::Activations};
    while (limits.rows > 1 && bytes_of(limits) > most) --limits.rows;
    const std::size_t bytes = bytes_of(limits);
    if (bytes <= std::max(kRowBytesMax, most)) return limits;
    return make_error(Errc::TooLarge, "one row of train.sequence_length " +
                                          std::to_string(train.sequence_length) + " needs " +
                                          format_bytes(bytes) +
                                          " of buffers; make it shorter, or set train.checkpointing: layers");
}

Result<MemoryPlan> plan_memory(const model::BaseModel& model, const job::JobSpec& job, unsigned threads,
                               Where where) {
    FEDLLM_TRY(const tensor::Manifest manifest, trained_manifest(model.config(), job));
    FEDLLM_TRY(const engine::Network network,
               engine::Network::create(model.config(), model.weights(), manifest, job.lora));
    const auto bytes_of = [&](const engine::Limits& of) {
        return engine::Transformer::buffer_bytes(network, of);
    };
    FEDLLM_TRY(const engine::Limits limits,
               choose_limits(job.train, bytes_of, engine::CpuBackend::kBufferBytesMax));
    MemoryPlan plan;
    plan.micro_rows = limits.rows;
    const std::size_t trained = manifest.elements() * sizeof(float);
    if (job.method == job::Method::Lora) plan.base = model.bytes_held_as(job.base);
    plan.parameters = 2 * trained;
    plan.update = 2 * trained;
    plan.program = kProgramBytes;
    if (where == Where::Gpu) return plan;
    plan.gradients = trained;
    plan.optimizer = 2 * trained;
    plan.buffers = bytes_of(limits) + kernels::ThreadPool::scratch_bytes(threads);
    return plan;
}

Result<void> check_fits(const MemoryPlan& plan, std::size_t limit) {
    if (plan.total() <= limit) return {};
    return make_error(
        Errc::TooLarge,
        "the job needs " + plan.text() + "; there are " + format_bytes(limit) +
            ". Smaller: base.storage nf4, train.checkpointing layers, fewer train.batch_rows, a "
            "shorter train.sequence_length; 'fedllm check' shows what each saves");
}

}  // namespace fedllm::client::train
