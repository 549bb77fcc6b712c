// What the forward and the backward half of Transformer share. Private to the two files.
#pragma once

#include <cmath>

#include "client/engine/transformer.hpp"
#include "kernels/attention/op.hpp"

namespace fedllm::client::engine {

struct Transformer::Step {
    const BatchView& batch;
    const float* params;
    float* gradients;    // null: forward only
    std::size_t tokens;  // M = B*T
};

inline constexpr std::size_t kLogitRows = 256;  // rows of logits that exist at once

inline kernels::AttentionShape attention_shape(const model::ModelConfig& config, const BatchView& batch) {
    const float scale = 1.0F / std::sqrt(static_cast<float>(config.head_size));
    return {batch.rows, batch.tokens_per_row, config.heads, config.kv_heads, config.head_size, scale};
}

}  // namespace fedllm::client::engine
