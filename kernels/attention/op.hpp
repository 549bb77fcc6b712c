// Causal grouped-query attention, tiled with an online softmax (Dao et al. 2022): no T x T buffer exists.
// H query heads share KV key/value heads in groups of H / KV. Token t of a row sees keys [first_key[t], t]:
// packed documents do not see each other, and a sliding window is first_key[t] = t - W + 1.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {

struct AttentionShape {
    std::size_t batch = 0;      // B
    std::size_t tokens = 0;     // T
    std::size_t heads = 0;      // H, a multiple of kv_heads
    std::size_t kv_heads = 0;   // KV
    std::size_t head_size = 0;  // D
    float scale = 1.0f;         // usually 1 / sqrt(D)
};

// Rows are tokens (B*T rows); head h of a row is the D columns starting at h*D. Pitches may differ, so q, k
// and v may be slices of one buffer. first_key is (B,T), non-decreasing within a row of the batch, 0 <=
// first_key[t] <= t.
void attention_forward(ThreadPool& pool, const AttentionShape& shape, const std::int32_t* first_key,
                       ConstMatrix q,        // (B*T, H*D)
                       ConstMatrix k,        // (B*T, KV*D)
                       ConstMatrix v,        // (B*T, KV*D)
                       Matrix out,           // (B*T, H*D)
                       float* log_sum_exp);  // (B,H,T), for the backward pass

// Recomputes the probabilities from log_sum_exp. dq, dk, dv are overwritten. dot is (B,H,T) scratch.
void attention_backward(ThreadPool& pool, const AttentionShape& shape, const std::int32_t* first_key,
                        ConstMatrix q, ConstMatrix k, ConstMatrix v, ConstMatrix out,
                        const float* log_sum_exp, ConstMatrix dout,  // (B*T, H*D)
                        float* dot, Matrix dq, Matrix dk, Matrix dv);

// Bytes of per-thread scratch are fixed at compile time (tiles); D up to kHeadSizeMax is supported.
inline constexpr std::size_t kHeadSizeMax = 256;

}  // namespace fedllm::kernels
