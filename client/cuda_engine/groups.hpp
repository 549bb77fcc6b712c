// Groups: the projections of a layer that read one input and so share a panel (kernels/lora_matmul).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "client/engine/network.hpp"
#include "kernels/lora_matmul/op_cuda.hpp"

namespace fedllm::client::cuda_engine {

using model::Part;

enum GroupKind : std::size_t { kQkvGroup, kOGroup, kGateUpGroup, kDownGroup };
constexpr std::size_t kGroupKinds = 4;

// Resident: all panels lie ready. Fp8: the same, but frozen groups whose job asks for it are in FP8. Ring:
// two of each kind take turns.
enum class PanelStorage : std::uint8_t { Fp8, Resident, Ring };

struct Group {
    std::size_t layer = 0;
    GroupKind kind = kQkvGroup;
    std::vector<Part> parts;
    std::vector<kernels::cuda::PanelPart> pieces;  // of each part: its place in the panel
    std::size_t n = 0, k = 0, r = 0;               // of the panel
    bool fp8 = false;                              // multiplied in FP8 but for its adapters

    std::size_t panel_rows() const { return n + r; }
    std::size_t panel_cols() const { return k + r; }
};

// By layer and kind.
class Groups {
public:
    Groups() = default;
    // `params` (may be null: only shapes are wanted) is where the trained values lie.
    Groups(const engine::Network& network, const float* params, PanelStorage storage);

    const Group& at(std::size_t layer, GroupKind kind) const { return groups_[layer][kind]; }
    std::size_t layers() const { return groups_.size(); }
    std::size_t r_max(GroupKind kind) const { return r_max_[kind]; }  // over all layers
    bool head_fp8() const { return head_fp8_; }
    bool any_fp8() const;

private:
    std::vector<std::array<Group, kGroupKinds>> groups_;
    std::array<std::size_t, kGroupKinds> r_max_{};
    bool head_fp8_ = false;
};

}  // namespace fedllm::client::cuda_engine
