// DeviceWeights: a network's frozen weights in the GPU's memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "client/cuda_engine/transfer.hpp"
#include "client/engine/network.hpp"

namespace fedllm::client::cuda_engine {

// Whether linear layers are here, as they are stored (codes and scales stay packed), or only in panels.
enum class LinearWeights : std::uint8_t { Packed, OnlyInPanels };

// Tables are bf16, vectors f32. What is trained is not here.
class DeviceWeights {
public:
    DeviceWeights(const engine::Network& host, LinearWeights linear, Transfer& transfer);

    static std::size_t bytes(const engine::Network& host, LinearWeights linear);
    const model::ModelWeights& views() const { return views_; }  // into the GPU's memory

private:
    DeviceWeights() = default;
    void lay_out(const engine::Network& host, LinearWeights linear, Carver& carver);
    void fill(const engine::Network& host, Transfer& transfer);

    kernels::cuda::DeviceBuffer<unsigned char> memory_;
    model::ModelWeights views_;
};

}  // namespace fedllm::client::cuda_engine
