// How host code starts a kernel. Included by *.cu files alone, after device_code.cuh.
//
//     launch(stream, {.grid = {blocks}, .threads = 256, .shared_bytes = bytes}, my_kernel<8>, x, y);
#pragma once

#include <cstddef>
#include <type_traits>

#include "kernels/cuda/runtime.hpp"

#ifdef __CUDACC__
#include <cuda_runtime.h>

#include <string>
#else
#include "kernels/cuda/emulated_block.hpp"
#endif

namespace fedllm::kernels::cuda {

struct Grid {
    unsigned x = 1, y = 1, z = 1;
};
struct Launch {
    Grid grid;
    unsigned threads = 256;  // of a block, all along x
    std::size_t shared_bytes = 0;
};

inline unsigned blocks_for(std::size_t elements, std::size_t per_block) {
    return static_cast<unsigned>((elements + per_block - 1) / per_block);
}

template <class... P>
void launch(const Stream& stream, const Launch& how, void (*kernel)(P...),
            std::type_identity_t<P>... arguments) {
    if (how.grid.x == 0 || how.grid.y == 0 || how.grid.z == 0) return;
#ifdef __CUDACC__
    constexpr std::size_t kSharedWithoutAsking = 48 * 1024;
    auto check = [](cudaError_t status) {
        if (status != cudaSuccess)
            throw GpuError(std::string("starting a kernel: ") + cudaGetErrorString(status));
    };
    if (how.shared_bytes > kSharedWithoutAsking) {
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(how.shared_bytes)));
    }
    void* pointers[] = {static_cast<void*>(&arguments)..., nullptr};
    check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(how.grid.x, how.grid.y, how.grid.z),
                           dim3(how.threads), pointers, how.shared_bytes,
                           static_cast<cudaStream_t>(stream.handle())));
#else
    emulation::enqueue(stream, [=] {
        emulation::run({how.grid.x, how.grid.y, how.grid.z}, how.threads, how.shared_bytes,
                       [=] { kernel(arguments...); });
    });
#endif
}

}  // namespace fedllm::kernels::cuda
