#include "client/cuda_engine/groups.hpp"

#include <algorithm>

namespace fedllm::client::cuda_engine {
namespace {

constexpr std::array<std::array<Part, 4>, kGroupKinds> kParts{
    {{model::kQ, model::kK, model::kV, model::kQkv},
     {model::kO, model::kO, model::kO, model::kO},
     {model::kGate, model::kUp, model::kUp, model::kUp},
     {model::kDown, model::kDown, model::kDown, model::kDown}}};

Group make_group(const engine::Network& network, std::size_t layer, GroupKind kind, const float* params) {
    Group group{.layer = layer, .kind = kind, .parts = {}, .pieces = {}};
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
        group.k = shape.in;
    }
    group.r = kernels::cuda::place_adapters(group.pieces);
    return group;
}

}  // namespace

Groups::Groups(const engine::Network& network, const float* params) {
    groups_.resize(network.config().layers);
    for (std::size_t layer = 0; layer < groups_.size(); ++layer) {
        for (std::size_t kind = 0; kind < kGroupKinds; ++kind) {
            groups_[layer][kind] = make_group(network, layer, static_cast<GroupKind>(kind), params);
            r_max_[kind] = std::max(r_max_[kind], groups_[layer][kind].r);
        }
    }
}

}  // namespace fedllm::client::cuda_engine
