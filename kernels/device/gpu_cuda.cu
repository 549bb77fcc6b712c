#include <cuda_runtime_api.h>

#include "kernels/device/gpu.hpp"

namespace fedllm::kernels {

GpuList list_gpus() {
    int count = 0;
    if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess) {
        return {{}, cudaGetErrorString(status)};
    }
    GpuList list;
    for (int device = 0; device < count; ++device) {
        cudaDeviceProp properties{};
        if (const cudaError_t status = cudaGetDeviceProperties(&properties, device); status != cudaSuccess) {
            return {{}, cudaGetErrorString(status)};
        }
        list.gpus.push_back({properties.name, properties.totalGlobalMem, properties.major, properties.minor});
    }
    if (list.gpus.empty()) list.none_because = "the CUDA driver reports no device";
    return list;
}

}  // namespace fedllm::kernels
