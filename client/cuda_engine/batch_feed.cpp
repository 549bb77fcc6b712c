#include "client/cuda_engine/batch_feed.hpp"

#include <algorithm>

#include "kernels/cross_entropy/op.hpp"

namespace fedllm::client::cuda_engine {

BatchFeed::BatchFeed(const engine::Network& network, const engine::Limits& limits, const BatchArrays& device)
    : device_(device), places_max_(head_rows(limits)), window_(network.config().window) {
    for (Slot& slot : slots_) {
        slot.memory = kernels::cuda::PinnedBuffer<unsigned char>(device.bytes);
        Carver place(slot.memory.data());
        slot.arrays = BatchArrays::lay_out(network, limits, place);
    }
}

std::size_t BatchFeed::put(const kernels::cuda::Stream& stream, const engine::BatchView& batch,
                           float gradient_scale) {
    Slot& slot = fill(batch);
    std::size_t counted = 0;
    for (std::size_t i = 0; i < batch.targets.size(); ++i) {
        if (batch.targets[i] == kernels::kIgnoreIndex) continue;
        slot.arrays.places[counted] = static_cast<std::int32_t>(i);
        slot.arrays.targets[counted++] = batch.targets[i];
    }
    *slot.arrays.gradient_scale = gradient_scale;
    send(stream, slot);
    return counted;
}

void BatchFeed::put(const kernels::cuda::Stream& stream, const engine::BatchView& batch,
                    std::span<const std::int32_t> places) {
    Slot& slot = fill(batch);
    std::copy(places.begin(), places.end(), slot.arrays.places);
    *slot.arrays.gradient_scale = 0.0F;
    send(stream, slot);
}

BatchFeed::Slot& BatchFeed::fill(const engine::BatchView& batch) {
    Slot& slot = slots_[next_];
    next_ = 1 - next_;
    if (slot.in_use) slot.copied.synchronize();
    const BatchArrays& to = slot.arrays;
    std::copy(batch.tokens.begin(), batch.tokens.end(), to.tokens);
    std::copy(batch.positions.begin(), batch.positions.end(), to.positions);
    std::copy(batch.first_key.begin(), batch.first_key.end(), to.first_key);
    for (std::size_t i = 0; window_ != 0 && i < batch.first_key.size(); ++i) {
        const auto t = static_cast<std::int32_t>(i % batch.tokens_per_row);
        to.window_first_key[i] = std::max(batch.first_key[i], t - static_cast<std::int32_t>(window_) + 1);
    }
    std::fill_n(to.places, places_max_, -1);
    std::fill_n(to.targets, places_max_, kernels::kIgnoreIndex);
    return slot;
}

void BatchFeed::send(const kernels::cuda::Stream& stream, Slot& slot) {
    kernels::cuda::copy_to_device(stream, device_.tokens, slot.memory.data(), device_.bytes);
    slot.copied.record(stream);
    slot.in_use = true;
}

}  // namespace fedllm::client::cuda_engine
