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
    const Groups groups(network, nullptr, storage);
    Plan plan;
    plan.storage = storage;
    plan.weights = DeviceWeights::bytes(network, plan.linear());
    plan.panels = Panels::bytes(network, groups, storage);
    plan.trained = 4 * round_up(network.parameters() * sizeof(float), 256);
    plan.buffers = Buffers::bytes(network, groups, limits);
    plan.working = kBlasBytes + loading_bytes(network) + Panels::loading_bytes(groups);
    return plan;
}

Plan make_plan(const engine::Network& network, const engine::Limits& limits, std::size_t bytes,
               const AskFp8& can_fp8) {
    Plan resident = make_plan(network, limits, PanelStorage::Resident);
    Plan ring = make_plan(network, limits, PanelStorage::Ring);
    if (Groups(network, nullptr, PanelStorage::Fp8).any_fp8()) {
        const Plan fp8 = make_plan(network, limits, PanelStorage::Fp8);
        const bool can = can_fp8();
        if (can && fp8.total() <= bytes) return fp8;
        resident.without_fp8 = can ? "FP8 would take " + format_bytes(fp8.total()) : "the GPU has no FP8";
        ring.without_fp8 = resident.without_fp8;
    }
    return resident.total() <= bytes || resident.total() <= ring.total() ? resident : ring;
}

namespace {
std::string words(PanelStorage storage) {
    switch (storage) {
        case PanelStorage::Fp8: return "frozen weights lie ready in FP8, others in bf16";
        case PanelStorage::Resident: return "all weights lie ready in bf16";
        case PanelStorage::Ring: return "weights stay packed and are widened layer by layer";
    }
    return {};
}
}  // namespace

std::string Plan::text() const {
    const std::string why = without_fp8.empty() ? "" : ", multiplied in bf16 as " + without_fp8;
    return words(storage) + why + ": " + format_bytes(total()) + " (weights " + format_bytes(weights) +
           ", panels " + format_bytes(panels) + ", trained " + format_bytes(trained) + ", buffers " +
           format_bytes(buffers) + ", working " + format_bytes(working) + ")";
}

}  // namespace fedllm::client::cuda_engine
