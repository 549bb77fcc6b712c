#include "client/cuda_engine/panels.hpp"

#include <algorithm>

namespace fedllm::client::cuda_engine {
namespace {

using engine::Network;
using kernels::cuda::Panel;
using kernels::cuda::Stream;

constexpr std::size_t kRing = 2;  // slots of each kind

bool is_trained(const adapter::Slots& slots) { return slots.weight != adapter::kAbsent; }
bool head_is_trained(const Network& network) {
    const Part part = network.config().tied_head ? model::kEmbedding : model::kHead;
    return is_trained(network.binding().at(part));
}

std::size_t slot_count(const Groups& groups, PanelStorage storage) {
    return storage == PanelStorage::Resident ? groups.layers() : std::min(kRing, groups.layers());
}

// Of the panels, by layer or slot and kind, and at last of a trained head.
struct Places {
    std::vector<std::array<unsigned char*, kGroupKinds>> panels;
    BF16* head = nullptr;
};
Places lay_out(const Network& network, const Groups& groups, PanelStorage storage, Carver& carver) {
    Places places;
    places.panels.resize(slot_count(groups, storage));
    for (std::size_t slot = 0; slot < places.panels.size(); ++slot) {
        for (std::size_t kind = 0; kind < kGroupKinds; ++kind) {
            const Group& group = groups.at(slot, static_cast<GroupKind>(kind));
            const std::size_t r = storage == PanelStorage::Resident ? group.r : groups.r_max(group.kind);
            const std::size_t elements = (group.n + r) * (group.k + r);
            places.panels[slot][kind] = reinterpret_cast<unsigned char*>(carver.take<BF16>(elements));
        }
    }
    const model::ModelConfig& config = network.config();
    if (head_is_trained(network)) places.head = carver.take<BF16>(round_up(config.vocab, 8) * config.hidden);
    return places;
}

// The border of one fits that of the other: what neither fills stays zero.
bool same_places(const Group& a, const Group& b) {
    return a.r == b.r &&
           std::equal(a.pieces.begin(), a.pieces.end(), b.pieces.begin(), b.pieces.end(),
                      [](const auto& x, const auto& y) { return x.rank == y.rank && x.place == y.place; });
}

}  // namespace

Panels::Panels(const Stream& stream, const Network& network, const Network& host, const Groups& groups,
               const float* params, PanelStorage storage, Transfer& transfer)
    : stream_(&stream),
      network_(&network),
      groups_(&groups),
      params_(params),
      storage_(storage),
      memory_(bytes(network, groups, storage)),
      slots_(slot_count(groups, storage)) {
    Carver place(memory_.data());
    const Places places = lay_out(network, groups, storage, place);
    for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
        for (std::size_t kind = 0; kind < kGroupKinds; ++kind)
            slots_[slot][kind].memory = places.panels[slot][kind];
    }
    const std::size_t hidden = network.config().hidden, vocab = network.config().vocab;
    const void* head = places.head;
    if (head == nullptr) head = network.base().at(model::kHead).weight.data;
    head_.values = {static_cast<BF16*>(const_cast<void*>(head)), round_up(vocab, 8), hidden, hidden};
    head_.n = vocab;
    head_.k = hidden;
    for (std::size_t kind = 0; kind < kGroupKinds; ++kind) {
        const auto& first = groups.at(0, static_cast<GroupKind>(kind));
        uniform_[kind] = true;
        for (std::size_t layer = 1; layer < groups.layers(); ++layer)
            uniform_[kind] &= same_places(first, groups.at(layer, first.kind));
    }
    kernels::cuda::fill_bytes(stream, memory_.data(), 0, memory_.bytes());
    if (storage == PanelStorage::Resident) load(host, transfer);
}

std::size_t Panels::bytes(const Network& network, const Groups& groups, PanelStorage storage) {
    Carver measure;
    lay_out(network, groups, storage, measure);
    return measure.used();
}

// The frozen weights, once.
void Panels::load(const Network& host, Transfer& transfer) {
    for (std::size_t layer = 0; layer < groups_->layers(); ++layer) {
        for (std::size_t kind = 0; kind < kGroupKinds; ++kind) {
            const Group& group = groups_->at(layer, static_cast<GroupKind>(kind));
            Slot& to = slot(group);
            shape(to, group);
            for (std::size_t i = 0; i < group.parts.size(); ++i) {
                if (is_trained(network_->binding().at(group.parts[i], layer))) continue;
                const DeviceMatrix rows =
                    to.panel.values.slice(group.pieces[i].row, group.pieces[i].rows).columns(0, group.k);
                transfer.widen(host.base().at(group.parts[i], layer).weight, rows);
            }
        }
    }
}

Panels::Slot& Panels::slot(const Group& group) { return slots_[group.layer % slots_.size()][group.kind]; }

void Panels::shape(Slot& slot, const Group& group) const {
    slot.panel.values = {reinterpret_cast<BF16*>(slot.memory), group.panel_rows(), group.panel_cols(),
                         group.panel_cols()};
    slot.panel.n = group.n;
    slot.panel.k = group.k;
    slot.panel.r = group.r;
    slot.holds = &group;
}

void Panels::fill(const Stream& stream, const Group& group, const Panel& to, bool frozen_too) {
    for (std::size_t i = 0; i < group.parts.size(); ++i) {
        const kernels::cuda::PanelPart& piece = group.pieces[i];
        const engine::Linear linear = network_->linear(group.layer, group.parts[i], params_, nullptr);
        if (frozen_too || is_trained(network_->binding().at(group.parts[i], group.layer))) {
            kernels::cuda::dequantize(stream, linear.weight,
                                      to.values.slice(piece.row, piece.rows).columns(0, group.k),
                                      linear.turned);
        }
        if (piece.rank != 0) kernels::cuda::fill_border(stream, to, piece);
    }
}

void Panels::refresh() {
    if (storage_ == PanelStorage::Resident) {
        for (std::size_t layer = 0; layer < groups_->layers(); ++layer) {
            for (Slot& slot : slots_[layer]) fill(*stream_, *slot.holds, slot.panel, /*frozen_too=*/false);
        }
    }
    if (!head_is_trained(*network_)) return;
    const engine::Linear head = network_->head(params_, nullptr);
    kernels::cuda::dequantize(*stream_, head.weight, head_.values.slice(0, head_.n));
}

void Panels::begin(Pass pass) {
    expected_ = &visits_[pass];
    visit_ = 0;
    if (storage_ == PanelStorage::Resident) return;
    for (auto& kinds : slots_) {
        for (Slot& slot : kinds) slot.holds = nullptr;  // a recorded pass may run after any other
    }
}

// Fills the group's slot on the side, once nothing enqueued so far reads it.
void Panels::fill_ahead(const Group& group) {
    Slot& to = slot(group);
    if (to.holds == &group) return;
    side_.wait(passed_);
    shape(to, group);
    if (!uniform_[group.kind]) {
        kernels::cuda::fill_bytes(side_, to.memory, 0,
                                  group.panel_rows() * group.panel_cols() * sizeof(BF16));
    }
    fill(side_, group, to.panel, /*frozen_too=*/true);
    to.filled.record(side_);
}

const Panel& Panels::acquire(const Group& group) {
    Slot& wanted = slot(group);
    if (storage_ == PanelStorage::Resident) return wanted.panel;
    passed_.record(*stream_);
    fill_ahead(group);
    stream_->wait(wanted.filled);
    if (visit_ == expected_->size()) expected_->push_back(&group);
    ++visit_;
    if (visit_ < expected_->size()) fill_ahead(*(*expected_)[visit_]);
    return wanted.panel;
}

}  // namespace fedllm::client::cuda_engine
