// An update built on one NVIDIA GPU. In builds without CUDA the same function refuses (absent.cpp).
#pragma once

#include "client/update/builder.hpp"
#include "common/base/result.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::client::cuda_update {

// What update::build() returns for the same request, every bit of it, and its errors. Three more say that the
// CPU may do it, with the same outcome: Unsupported (this build has no CUDA), TooLarge (the GPU has no memory
// for it now; 23 to 26 bytes a value) and DeviceFailed. Memory is taken here, and given back.
Result<update::EncodedUpdate> build(unsigned device, const tensor::ParamSet& start,
                                    const tensor::ParamSet& trained, const update::BuildRequest& request);

}  // namespace fedllm::client::cuda_update
