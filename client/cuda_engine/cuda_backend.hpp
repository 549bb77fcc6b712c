// Training and evaluation on one NVIDIA GPU. In builds without CUDA the same function refuses (absent.cpp).
#pragma once

#include <cstddef>
#include <memory>

#include "client/engine/engine.hpp"
#include "common/base/result.hpp"

namespace fedllm::client::cuda_engine {

struct CudaOptions {
    unsigned device = 0;
    std::size_t memory_bytes_max = 0;  // that engines may take; 0: what is free
};

// DeviceFailed, in words: there is no GPU or no driver, it is too old (compute capability 8.0 is needed), or
// busy. Unsupported where this build has no CUDA. Its engines refuse with DeviceFailed what does not fit.
Result<std::unique_ptr<engine::Backend>> make_backend(const CudaOptions& options);

}  // namespace fedllm::client::cuda_engine
