#include "client/cuda_engine/groups.hpp"

#include <algorithm>

namespace fedllm::client::cuda_engine {
namespace {

constexpr std::array<std::array<Part, 4>, kGroupKinds> kParts{
    {{model::kQ, model::kK, model::kV, model::kQkv},
     {model::kO, model::kO, model::kO, model::kO},
     {model::kGate, model::kUp, model::kUp, model::kUp},
     {model::kDown, model::kDown, model::kDown, model::kDown}}};

bool frozen_fp8(const engine::Network& network, Part part, std::size_t layer) {
    return network.binding().at(part, layer).weight == adapter::kAbsent &&
           network.base().at(part, layer).operands == kernels::Operands::E4m3;
}

Group make_group(const engine::Network& network, std::size_t layer, GroupKind kind, const float* params,
                 PanelStorage storage) {
    Group group{.layer = layer, .kind = kind, .parts = {}, .pieces = {}};
    group.fp8 = storage == PanelStorage::Fp8;
    for (const Part part : kParts[kind]) {
        const bool listed = std::find(group.parts.begin(), group.parts.end(), part) != group.parts.end();
        if (listed || !network.has(part)) continue;
        const model::Projection& shape = network.shape(part);
        const adapter::Slots& slots = network.binding().at(part, layer);
        kernels::cuda::PanelPart piece;
        piece.row = group.n;
        piece.rows = shape.out;
        piece.rank = slots.rank;
        piece.scale = slots.lora_scale;
        if (slots.rank != 0 && params != nullptr) {
            piece.a = params + slots.lora_a;
            piece.b = params + slots.lora_b;
        }
        group.parts.push_back(part);
        group.pieces.push_back(piece);
        group.n += shape.out;
        group.fp8 &= frozen_fp8(network, part, layer);
        group.k = shape.in;
    }
    group.r = kernels::cuda::place_adapters(group.pieces);
    return group;
}

}  // namespace

Groups::Groups(const engine::Network& network, const float* params, PanelStorage storage) {
    groups_.resize(network.config().layers);
    const Part head = network.config().tied_head ? model::kEmbedding : model::kHead;
    head_fp8_ = storage == PanelStorage::Fp8 && network.binding().at(head).weight == adapter::kAbsent &&
                network.base().at(model::kHead).operands == kernels::Operands::E4m3;
    for (std::size_t layer = 0; layer < groups_.size(); ++layer) {
        for (std::size_t kind = 0; kind < kGroupKinds; ++kind) {
            groups_[layer][kind] = make_group(network, layer, static_cast<GroupKind>(kind), params, storage);
            r_max_[kind] = std::max(r_max_[kind], groups_[layer][kind].r);
        }
    }
}

bool Groups::any_fp8() const {
    return head_fp8_ || std::any_of(groups_.begin(), groups_.end(), [](const auto& kinds) {
               return std::any_of(kinds.begin(), kinds.end(), [](const Group& group) { return group.fp8; });
           });
}

}  // namespace fedllm::client::cuda_engine
