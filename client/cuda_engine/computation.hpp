// Computation: what engine::Transformer does on a CPU, enqueued on a GPU's stream: loss and gradients of a
// decoder on one micro-batch, which lies in Buffers::batch().
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "client/cuda_engine/buffers.hpp"
#include "client/cuda_engine/products.hpp"
#include "kernels/attention/op.hpp"
#include "kernels/rope/op.hpp"

namespace fedllm::client::cuda_engine {

// The shape of a micro-batch: with the same one, the same work is enqueued.
struct MicroBatch {
    std::size_t rows = 0;
    std::size_t tokens_per_row = 0;
    std::size_t chunks = 0;  // of logit_rows() that the tokens that count fill

    std::size_t tokens() const { return rows * tokens_per_row; }
    auto operator<=>(const MicroBatch&) const = default;
};

// Lifecycle: what it was made from must outlive it. Concurrency: one call at a time.
// Nothing here allocates, waits, or reads what a micro-batch says on the host: it can be recorded.
class Computation {
public:
    Computation(const kernels::cuda::Stream& stream, const engine::Network& network,
                const engine::Limits& limits, const Groups& groups, Panels& panels, Buffers& buffers,
                TrainedValues trained, Transfer& transfer);

    // Adds to the gradients and to HeadBuffers::loss_sum.
    void forward_backward(const MicroBatch& batch);
    // Adds to HeadBuffers::loss_sum; losses lie in HeadBuffers::losses.
    void forward_loss(const MicroBatch& batch);
    // Normed rows of the tokens in BatchArrays::places lie in HeadBuffers::normed; head_logits() is what is
    // left.
    void forward_head_input(const MicroBatch& batch);
    Products& products() { return products_; }

private:
    enum class Gradients : std::uint8_t { Wanted, No };

    void forward_stream(const MicroBatch& batch);
    void embed(DeviceMatrix stream);
    void embed_backward(const MicroBatch& batch);
    const std::int32_t* first_key(std::size_t layer) const;
    kernels::AttentionShape attention_shape(const MicroBatch& batch) const;
    void turn(DeviceMatrix query_key, kernels::Turn direction);
    DeviceMatrix query_key(const LayerBuffers& b) const;
    void norm_heads(std::size_t layer, const LayerBuffers& b);
    void norm_heads_backward(std::size_t layer, const LayerBuffers& b, DeviceMatrix gradient);
    void forward_attention(const MicroBatch& batch, std::size_t layer);
    void forward_activation(const MicroBatch& batch, std::size_t layer);
    void forward_mlp(const MicroBatch& batch, std::size_t layer, DeviceMatrix output);
    void recompute(const MicroBatch& batch, std::size_t layer);
    void gather_head_input(const MicroBatch& batch, std::size_t rows);
    void head_losses(const MicroBatch& batch, Gradients gradients);
    void backward_head(const MicroBatch& batch);
    void backward_mlp(const MicroBatch& batch, std::size_t layer, const engine::Needs& need);
    void backward_attention(const MicroBatch& batch, std::size_t layer, const engine::Needs& need);
    void norm_forward(const engine::Norm& norm, DeviceMatrix x, DeviceMatrix y, float* stats);
    void norm_backward(const engine::Norm& norm, ConstDeviceMatrix dy, ConstDeviceMatrix x,
                       const float* stats, DeviceMatrix dx, kernels::Write write);
    engine::Norm norm(std::size_t layer, Part part) const;

    const kernels::cuda::Stream* stream_;
    const engine::Network* network_;
    const engine::Limits limits_;
    const Groups* groups_;
    Panels* panels_;
    Buffers* buffers_;
    TrainedValues trained_;
    Products products_;
    kernels::cuda::DeviceBuffer<float> cosine_, sine_;  // (positions, D/2); empty: nothing is turned
};

}  // namespace fedllm::client::cuda_engine
