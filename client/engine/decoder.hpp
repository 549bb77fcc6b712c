// Decoder: one text, token by token, with the keys and values of earlier tokens kept. For generation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "client/engine/arena.hpp"
#include "client/engine/network.hpp"
#include "client/engine/rotation.hpp"
#include "common/base/result.hpp"
#include "common/tensor/param_set.hpp"
#include "kernels/device/thread_pool.hpp"

namespace fedllm::client::engine {

// Lifecycle: move-only; all memory is taken in create(). `pool` must outlive it.
// Concurrency: one call at a time.
// Limits: `capacity` tokens in all; InvalidData for a token the model does not have, TooLarge beyond
// capacity, and beyond the context of a family with learned positions.
class Decoder {
public:
    static Result<Decoder> create(kernels::ThreadPool& pool, Network network, std::size_t capacity);

    // Appends tokens (at least one) and returns the logits (V) after the last; valid until the next call.
    // `params` must stay the same between calls, or the kept keys and values would be those of another model.
    Result<std::span<const float>> append(std::span<const std::int32_t> tokens,
                                          const tensor::ParamSet& params);

    std::size_t length() const { return length_; }
    void clear() { length_ = 0; }

private:
    struct Buffers {
        float *stream, *normed, *stats, *qkv, *heads_rstd, *attended, *gate, *up, *act, *lora, *logits;
        float *keys, *values;  // (layers, capacity, KV*D)
    };

    Decoder(kernels::ThreadPool& pool, Network network, std::size_t capacity);
    void lay_out(Carver& carver);
    kernels::Matrix cache(float* base, std::size_t layer) const;
    void run_block(std::span<const std::int32_t> tokens, const float* params);
    void embed(std::span<const std::int32_t> tokens, const float* params, kernels::Matrix stream);
    void run_attention(std::size_t layer, const float* params, kernels::Matrix stream);
    void run_mlp(std::size_t layer, const float* params, kernels::Matrix stream);
    void attend(std::size_t layer, std::size_t rows);
    void project(std::size_t layer, Part part, const float* params, kernels::ConstMatrix x,
                 kernels::Matrix y);

    kernels::ThreadPool* pool_;
    Network network_;
    std::size_t capacity_;
    std::size_t length_ = 0;
    Rotation rotation_;
    std::vector<std::int32_t> positions_;
    Arena arena_;
    Buffers buffers_{};
};

}  // namespace fedllm::client::engine
