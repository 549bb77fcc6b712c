// Token embedding: out[m,:] = table[tokens[m],:]. Token ids are validated by the caller.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {

void embedding_forward(ThreadPool& pool, std::span<const std::int32_t> tokens,  // (M)
                       WeightView table,                                        // (V,C)
                       Matrix out);                                             // (M,C)

// dtable[tokens[m],:] += dout[m,:], in token order whatever the thread count.
void embedding_backward(ThreadPool& pool, std::span<const std::int32_t> tokens, ConstMatrix dout,
                        Matrix dtable);  // (V,C)

}  // namespace fedllm::kernels
