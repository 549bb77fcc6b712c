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
    return storage == PanelStorage::Ring ? std::min(kRing, groups.layers()) : groups.layers();
}

GroupWeights lay_out(const Group& group, Carver& carver) {
    const auto panel = [&](std::size_t n, std::size_t k) {
        const std::size_t rows = n + group.r, cols = k + group.r;
        return Panel{{carver.take<BF16>(rows * cols), rows, cols, cols}, n, k, group.r};
    };
    if (!group.fp8) return {panel(group.n, group.k), {}, {}};
    const Fp8Weight fp8 = Fp8Weight::lay_out(group.n, group.k, carver);
    return {panel(group.n, 0), panel(0, group.k), fp8};
}

// Of the panels, by layer or slot and kind, and at last of a head that is trained or in FP8.
struct Places {
    std::vector<std::array<unsigned char*, kGroupKinds>> panels;
    BF16* head = nullptr;
    Fp8Weight head_fp8;
};
Places lay_out(const Network& network, const Groups& groups, PanelStorage storage, Carver& carver) {
    Places places;
    places.panels.resize(slot_count(groups, storage));
    for (std::size_t slot = 0; slot < places.panels.size(); ++slot) {
        for (std::size_t kind = 0; kind < kGroupKinds; ++kind) {
            const Group& group = groups.at(slot, static_cast<GroupKind>(kind));
            Group largest = group;
            if (storage == PanelStorage::Ring) largest.r = groups.r_max(group.kind);
            Carver measure;
            lay_out(largest, measure);
            places.panels[slot][kind] = carver.take<unsigned char>(measure.used());
        }
    }
    const model::ModelConfig& config = network.config();
    const std::size_t vocab = round_up(config.vocab, 8);
    if (head_is_trained(network)) places.head = carver.take<BF16>(vocab * config.hidden);
    if (groups.head_fp8()) places.head_fp8 = Fp8Weight::lay_out(vocab, config.hidden, carver);
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
    head_.panel.values = {static_cast<BF16*>(const_cast<void*>(head)), round_up(vocab, 8), hidden, hidden};
    head_.panel.n = vocab;
    head_.panel.k = hidden;
    head_.fp8 = places.head_fp8;
    for (std::size_t kind = 0; kind < kGroupKinds; ++kind) {
        const auto& first = groups.at(0, static_cast<GroupKind>(kind));
        uniform_[kind] = true;
        for (std::size_t layer = 1; layer < groups.layers(); ++layer)
            uniform_[kind] &= same_places(first, groups.at(layer, first.kind));
    }
    kernels::cuda::fill_bytes(stream, memory_.data(), 0, memory_.bytes());
    if (storage != PanelStorage::Ring) load(host, transfer);
    if (!head_.fp8.empty()) head_.fp8.fill(stream, head_.panel.values);
}

std::size_t Panels::bytes(const Network& network, const Groups& groups, PanelStorage storage) {
    Carver measure;
    lay_out(network, groups, storage, measure);
    return measure.used();
}

std::size_t Panels::loading_bytes(const Groups& groups) {
    std::size_t most = 0;
    for (std::size_t layer = 0; layer < groups.layers(); ++layer) {
        for (std::size_t kind = 0; kind < kGroupKinds; ++kind) {
            const Group& group = groups.at(layer, static_cast<GroupKind>(kind));
            if (group.fp8) most = std::max(most, group.n * group.k * sizeof(BF16));
        }
    }
    return most;
}

// The frozen weights, once.
void Panels::load(const Network& host, Transfer& transfer) {
    const kernels::cuda::DeviceBuffer<BF16> wide(loading_bytes(*groups_) / sizeof(BF16));
    for (std::size_t layer = 0; layer < groups_->layers(); ++layer) {
        for (std::size_t kind = 0; kind < kGroupKinds; ++kind) {
            const Group& group = groups_->at(layer, static_cast<GroupKind>(kind));
            Slot& to = slot(group);
            shape(to, group);
            const DeviceMatrix whole = group.fp8 ? DeviceMatrix(wide.data(), group.n, group.k)
                                                 : to.weights.panel.values.columns(0, group.k);
            for (std::size_t i = 0; i < group.parts.size(); ++i) {
                if (is_trained(network_->binding().at(group.parts[i], layer))) continue;
                transfer.widen(host.base().at(group.parts[i], layer).weight,
                               whole.slice(group.pieces[i].row, group.pieces[i].rows));
            }
            if (group.fp8) to.weights.fp8.fill(*stream_, whole);
        }
    }
    stream_->synchronize();
}

Panels::Slot& Panels::slot(const Group& group) { return slots_[group.layer % slots_.size()][group.kind]; }

void Panels::shape(Slot& slot, const Group& group) const {
    Carver place(slot.memory);
    slot.weights = lay_out(group, place);
    slot.holds = &group;
}

void Panels::fill(const Stream& stream, const Group& group, const GroupWeights& to, bool frozen_too) {
    for (std::size_t i = 0; i < group.parts.size(); ++i) {
        const kernels::cuda::PanelPart& piece = group.pieces[i];
        const engine::Linear linear = network_->linear(group.layer, group.parts[i], params_, nullptr);
        if (frozen_too || is_trained(network_->binding().at(group.parts[i], group.layer))) {
            kernels::cuda::dequantize(stream, linear.weight,
                                      to.panel.values.slice(piece.row, piece.rows).columns(0, group.k),
                                      linear.turned);
        }
        if (piece.rank == 0) continue;
        kernels::cuda::fill_border(stream, to.panel, piece);
        if (!group.fp8) continue;
        kernels::cuda::PanelPart down = piece;
        down.row = down.rows = 0;
        kernels::cuda::fill_border(stream, to.down_panel, down);
    }
}

void Panels::refresh() {
    if (storage_ != PanelStorage::Ring) {
        for (std::size_t layer = 0; layer < groups_->layers(); ++layer) {
            for (Slot& slot : slots_[layer]) fill(*stream_, *slot.holds, slot.weights, /*frozen_too=*/false);
        }
    }
    if (!head_is_trained(*network_)) return;
    const engine::Linear head = network_->head(params_, nullptr);
    kernels::cuda::dequantize(*stream_, head.weight, head_.panel.values.slice(0, head_.panel.n));
}

void Panels::begin(Pass pass) {
    expected_ = &visits_[pass];
    visit_ = 0;
    if (storage_ != PanelStorage::Ring) return;
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
    fill(side_, group, to.weights, /*frozen_too=*/true);
    to.filled.record(side_);
}

const GroupWeights& Panels::acquire(const Group& group) {
    Slot& wanted = slot(group);
    if (storage_ != PanelStorage::Ring) return wanted.weights;
    passed_.record(*stream_);
    fill_ahead(group);
    stream_->wait(wanted.filled);
    if (visit_ == expected_->size()) expected_->push_back(&group);
    ++visit_;
    if (visit_ < expected_->size()) fill_ahead(*(*expected_)[visit_]);
    return wanted.weights;
}

}  // namespace fedllm::client::cuda_engine
