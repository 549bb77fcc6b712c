// BatchFeed: micro-batches on their way to the GPU, through pinned memory that is filled in turn.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "client/cuda_engine/buffers.hpp"

namespace fedllm::client::cuda_engine {

// Lifecycle: `device` points at memory that must outlive it. Concurrency: one call at a time.
class BatchFeed {
public:
    BatchFeed(const engine::Network& network, const engine::Limits& limits, const BatchArrays& device);

    // In order with the stream's work; the batch may change afterwards. Returns how many tokens count.
    std::size_t put(const kernels::cuda::Stream& stream, const engine::BatchView& batch,
                    float gradient_scale);
    // The same, with `places` (at most head_rows()) in place of the tokens that count.
    void put(const kernels::cuda::Stream& stream, const engine::BatchView& batch,
             std::span<const std::int32_t> places);

private:
    struct Slot {
        kernels::cuda::PinnedBuffer<unsigned char> memory;
        BatchArrays arrays;
        kernels::cuda::Event copied;
        bool in_use = false;
    };
    Slot& fill(const engine::BatchView& batch);
    void send(const kernels::cuda::Stream& stream, Slot& slot);

    BatchArrays device_;
    std::size_t places_max_;
    std::size_t window_;
    std::array<Slot, 2> slots_;
    std::size_t next_ = 0;
};

}  // namespace fedllm::client::cuda_engine
