// Panels: every linear layer as products read it, in bf16 with its adapters on the border
// (kernels/lora_matmul).
//
// Resident: all panels lie ready; only what is trained is filled in again after each step. Ring: two of each
// kind take turns, and the next one is filled, on a stream of its own, while the last one is computed with.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "client/cuda_engine/groups.hpp"
#include "client/cuda_engine/transfer.hpp"

namespace fedllm::client::cuda_engine {

enum class PanelStorage : std::uint8_t { Resident, Ring };

// Lifecycle: what it was made from must outlive it. Concurrency: one call at a time.
class Panels {
public:
    // `network` has the GPU's views, `host` the host's, which Resident fills its panels from.
    Panels(const kernels::cuda::Stream& stream, const engine::Network& network, const engine::Network& host,
           const Groups& groups, const float* params, PanelStorage storage, Transfer& transfer);

    static std::size_t bytes(const engine::Network& network, const Groups& groups, PanelStorage storage);

    // Trained values have changed.
    void refresh();
    // A pass over the layers begins. Passes of one `kind` visit the same groups in the same order: from the
    // second one on, it is known what comes next.
    enum Pass : std::size_t { kTraining, kEvaluation };
    void begin(Pass kind);
    // For products that are enqueued before the next call.
    const kernels::cuda::Panel& acquire(const Group& group);
    const kernels::cuda::Panel& head() const { return head_; }

private:
    struct Slot {
        unsigned char* memory = nullptr;
        kernels::cuda::Panel panel;
        const Group* holds = nullptr;
        kernels::cuda::Event filled;
    };

    void load(const engine::Network& host, Transfer& transfer);
    Slot& slot(const Group& group);
    void shape(Slot& slot, const Group& group) const;
    void fill(const kernels::cuda::Stream& stream, const Group& group, const kernels::cuda::Panel& to,
              bool frozen_too);
    void fill_ahead(const Group& group);

    const kernels::cuda::Stream* stream_;
    const engine::Network* network_;
    const Groups* groups_;
    const float* params_;
    PanelStorage storage_;
    kernels::cuda::DeviceBuffer<unsigned char> memory_;
    std::vector<std::array<Slot, kGroupKinds>> slots_;  // of every layer, or two
    kernels::cuda::Panel head_;
    // Of a ring.
    kernels::cuda::Stream side_;
    kernels::cuda::Event passed_;
    std::array<bool, kGroupKinds> uniform_{};          // all borders have the same places: others stay zero
    std::array<std::vector<const Group*>, 2> visits_;  // by pass
    std::vector<const Group*>* expected_ = nullptr;
    std::size_t visit_ = 0;
};

}  // namespace fedllm::client::cuda_engine
