// Matrices in the GPU's memory. What every CUDA operation asks of them: `data` aligned to 16 bytes and, for
// bf16, `pitch` a multiple of 8, so that rows can be read 16 bytes at a time; any number of rows and columns.
// Columns between cols and pitch are neither read for their value nor written.
#pragma once

#include "kernels/cuda/bf16.hpp"
#include "kernels/cuda/runtime.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels::cuda {

using DeviceMatrix = MatrixView<BF16>;
using ConstDeviceMatrix = MatrixView<const BF16>;

}  // namespace fedllm::kernels::cuda
