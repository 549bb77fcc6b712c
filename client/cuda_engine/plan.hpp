// Plan: what an engine takes of a GPU's memory, told before any of it is taken.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "client/cuda_engine/device_weights.hpp"
#include "client/cuda_engine/panels.hpp"
#include "client/engine/engine.hpp"

namespace fedllm::client::cuda_engine {

struct Plan {
    PanelStorage storage = PanelStorage::Resident;
    std::size_t weights = 0;  // frozen: tables, vectors and, for a ring, packed linear layers
    std::size_t panels = 0;
    std::size_t trained = 0;  // f32 values, gradients, two moments
    std::size_t buffers = 0;  // activations and scratch
    std::size_t working = 0;  // cuBLASLt's, and what loading takes
    std::string without_fp8;  // why not, where the job asks for it

    LinearWeights linear() const {
        return storage == PanelStorage::Ring ? LinearWeights::Packed : LinearWeights::OnlyInPanels;
    }
    std::size_t total() const { return weights + panels + trained + buffers + working; }
    // "all weights ready in bf16: 16.1 GiB, of it ..." or "weights are widened on the way: ...".
    std::string text() const;
};

Plan make_plan(const engine::Network& network, const engine::Limits& limits, PanelStorage storage);
// Of frozen weights that the job wants to be multiplied in FP8, whether the GPU can (is called only then).
using AskFp8 = std::function<bool()>;
// The fastest one that fits into `bytes`, or else the smallest one.
Plan make_plan(const engine::Network& network, const engine::Limits& limits, std::size_t bytes,
               const AskFp8& can_fp8);

}  // namespace fedllm::client::cuda_engine
