// Token embedding on the GPU, and moves of whole rows.
#pragma once

#include <cstdint>

#include "kernels/cuda/views.hpp"

namespace fedllm::kernels::cuda {

// out[m,:] = or += table[tokens[m],:]. The table is F32 or BF16, in the GPU's memory.
void embedding_forward(const Stream& stream, const std::int32_t* tokens, WeightView table,  // (M), (V,C)
                       DeviceMatrix out, Write write);                                      // (M,C)

// dtable[tokens[m],:] += dout[m,:], in token order: the same bits every time.
void embedding_backward(const Stream& stream, const std::int32_t* tokens, ConstDeviceMatrix dout,
                        MatrixView<float> dtable);  // (V,C)

// y[i] = x[places[i]]; where places[i] < 0 the row is 0.
void gather_rows(const Stream& stream, ConstDeviceMatrix x, const std::int32_t* places, DeviceMatrix y);
// y[places[i]] = x[i]; rows that no place names keep what they have. Negative places are skipped.
void scatter_rows(const Stream& stream, ConstDeviceMatrix x, const std::int32_t* places, DeviceMatrix y);

}  // namespace fedllm::kernels::cuda
