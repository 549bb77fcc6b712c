// Panels: every linear layer as products read it, in bf16 with its adapters on the border
// (kernels/lora_matmul).
//
// Resident: all panels lie ready; only what is trained is filled in again after each step. Ring: two of each
// kind take turns, and the next one is filled, on a stream of its own, while the last one is computed with.
// Fp8: as Resident, but of a group in FP8 only the border is bf16.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "client/cuda_engine/fp8_weights.hpp"
#include "client/cuda_engine/groups.hpp"
#include "client/cuda_engine/transfer.hpp"

namespace fedllm::client::cuda_engine {

// What a group's products read.
struct GroupWeights {
    kernels::cuda::Panel panel;       // all of it; in FP8 one without columns of W: B alone
    kernels::cuda::Panel down_panel;  // in FP8: one without rows of W, A alone
    Fp8Weight fp8;                    // else empty

    // (R,K) and, scaled, (N,R).
    DeviceMatrix a() const {
        const kernels::cuda::Panel& from = fp8.empty() ? panel : down_panel;
        return from.values.slice(from.n_padded(), from.r).columns(0, from.k);
    }
    DeviceMatrix b() const { return panel.values.slice(0, panel.n).columns(panel.k_padded(), panel.r); }
};

// Lifecycle: what it was made from must outlive it. Concurrency: one call at a time.
class Panels {
public:
    // `network` has the GPU's views, `host` the host's, which panels that lie ready are filled from.
    Panels(const kernels::cuda::Stream& stream, const engine::Network& network, const engine::Network& host,
           const Groups& groups, const float* params, PanelStorage storage, Transfer& transfer);

    static std::size_t bytes(const engine::Network& network, const Groups& groups, PanelStorage storage);
    // What is taken besides while FP8 is made.
    static std::size_t loading_bytes(const Groups& groups);

    // Trained values have changed.
    void refresh();
    // A pass over the layers begins. Passes of one `kind` visit the same groups in the same order: from the
    // second one on, it is known what comes next.
    enum Pass : std::size_t { kTraining, kEvaluation };
    void begin(Pass kind);
    // For products that are enqueued before the next call.
    const GroupWeights& acquire(const Group& group);
    // Its panel is all of it in FP8, too.
    const GroupWeights& head() const { return head_; }

private:
    struct Slot {
        unsigned char* memory = nullptr;
        GroupWeights weights;
        const Group* holds = nullptr;
        kernels::cuda::Event filled;
    };

    void load(const engine::Network& host, Transfer& transfer);
    Slot& slot(const Group& group);
    void shape(Slot& slot, const Group& group) const;
    void fill(const kernels::cuda::Stream& stream, const Group& group, const GroupWeights& to,
              bool frozen_too);
    void fill_ahead(const Group& group);

    const kernels::cuda::Stream* stream_;
    const engine::Network* network_;
    const Groups* groups_;
    const float* params_;
    PanelStorage storage_;
    kernels::cuda::DeviceBuffer<unsigned char> memory_;
    std::vector<std::array<Slot, kGroupKinds>> slots_;  // of every layer, or two
    GroupWeights head_;
    // Of a ring.
    kernels::cuda::Stream side_;
    kernels::cuda::Event passed_;
    std::array<bool, kGroupKinds> uniform_{};          // all borders have the same places: others stay zero
    std::array<std::vector<const Group*>, 2> visits_;  // by pass
    std::vector<const Group*>* expected_ = nullptr;
    std::size_t visit_ = 0;
};

}  // namespace fedllm::client::cuda_engine
