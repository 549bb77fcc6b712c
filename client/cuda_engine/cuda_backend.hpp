// Training and evaluation on NVIDIA GPUs. In builds without CUDA the same function refuses (absent.cpp).
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "client/engine/engine.hpp"
#include "common/base/result.hpp"

namespace fedllm::client::cuda_engine {

struct CudaOptions {
    // Each once. More than one: the model is on each, and they share every batch (replicated_engine.hpp).
    std::vector<unsigned> devices{0};
    std::size_t memory_bytes_max = 0;  // that engines may take of each; 0: what is free
};

// DeviceFailed, in words: there is no GPU or no driver, it is too old (compute capability 8.0 is needed), or
// busy; there are several, and no NCCL. InvalidArgument: none named, or one twice. Unsupported where this
// build has no CUDA. Its engines refuse with DeviceFailed what does not fit.
Result<std::unique_ptr<engine::Backend>> make_backend(const CudaOptions& options);

}  // namespace fedllm::client::cuda_engine
