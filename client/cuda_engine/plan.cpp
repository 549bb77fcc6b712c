#include "client/cuda_engine/plan.hpp"

#include <algorithm>

#include "client/cuda_engine/buffers.hpp"
#include "common/base/text.hpp"

namespace fedllm::client::cuda_engine {
namespace {

constexpr std::size_t kBlasBytes = std::size_t{96} << 20;  // workspace, and the code of kernels

// What widening the largest frozen weight takes while the engine is made.
std::size_t loading_bytes(const engine::Network& network) {
    std::size_t most = 0;
    for (const model::ModelTensor& tensor : model::model_tensors(network.config())) {
        const kernels::WeightView& weight = network.base().at(tensor.part, tensor.layer).weight;
        const bool frozen = network.binding().at(tensor.part, tensor.layer).weight == adapter::kAbsent;
        if (tensor.is_bias || !frozen || model::is_norm(tensor.part)) continue;
        most = std::max(most, Transfer::raw_bytes(weight));
    }
    return most;
}

}  // namespace

Plan make_plan(const engine::Network& network, const engine::Limits& limits, PanelStorage storage) {
    const Groups groups(network, nullptr);
    Plan plan;
    plan.storage = storage;
    plan.weights = DeviceWeights::bytes(network, plan.linear());
    plan.panels = Panels::bytes(network, groups, storage);
    plan.trained = 4 * round_up(network.parameters() * sizeof(float), 256);
    plan.buffers = Buffers::bytes(network, groups, limits);
    plan.working = kBlasBytes + loading_bytes(network);
    return plan;
}

Plan make_plan(const engine::Network& network, const engine::Limits& limits, std::size_t bytes) {
    const Plan resident = make_plan(network, limits, PanelStorage::Resident);
    if (resident.total() <= bytes) return resident;
    const Plan ring = make_plan(network, limits, PanelStorage::Ring);
    return ring.total() < resident.total() ? ring : resident;
}

std::string Plan::text() const {
    return std::string(storage == PanelStorage::Resident
                           ? "all weights lie ready in bf16"
                           : "weights stay packed and are widened layer by layer") +
           ": " + format_bytes(total()) + " (weights " + format_bytes(weights) + ", panels " +
           format_bytes(panels) + ", trained " + format_bytes(trained) + ", buffers " +
           format_bytes(buffers) + ", working " + format_bytes(working) + ")";
}

}  // namespace fedllm::client::cuda_engine
