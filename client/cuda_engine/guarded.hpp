// The one place where a failure of the GPU becomes a Result.
#pragma once

#include <string>

#include "common/base/result.hpp"
#include "kernels/cuda/runtime.hpp"

namespace fedllm::client::cuda_engine {

// Does `work` on a GPU, which it chooses for this thread: engines may be called from any.
template <class Work>
auto guarded(unsigned device, Work&& work) -> decltype(work()) {
    try {
        kernels::cuda::use_device(device);
        return work();
    } catch (const kernels::cuda::GpuError& error) {
        return make_error(Errc::DeviceFailed, "GPU " + std::to_string(device) + ": " + error.what());
    }
}

}  // namespace fedllm::client::cuda_engine
