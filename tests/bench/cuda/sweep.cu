#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "tests/bench/cuda/meter.hpp"

namespace fedllm::bench {
namespace {

// The sum is written only where it is what no sum of fresh memory is: the reads are not optimised away.
__global__ void read_all(uint4* data, std::size_t count) {
    unsigned sum = 0;
    for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
         i += std::size_t{gridDim.x} * blockDim.x) {
        const uint4 value = data[i];
        sum |= value.x | value.y | value.z | value.w;
    }
    if (sum != 0) data[0] = make_uint4(0, 0, 0, 0);
}

}  // namespace

void sweep(const cuda::Stream& stream, const cuda::DeviceBuffer<unsigned char>& data) {
    cuda::launch(stream, {.grid = {cuda::device_properties().multiprocessors * 8}, .threads = 256}, read_all,
                 reinterpret_cast<uint4*>(data.data()), data.size() / sizeof(uint4));
}

}  // namespace fedllm::bench
