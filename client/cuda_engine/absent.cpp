// What a build without CUDA links.
#include "client/cuda_engine/cuda_backend.hpp"

namespace fedllm::client::cuda_engine {

Result<std::unique_ptr<engine::Backend>> make_backend(const CudaOptions&) {
    return make_error(Errc::Unsupported,
                      "this program was built without CUDA; build it where nvcc is found, or use the CPU");
}

}  // namespace fedllm::client::cuda_engine
