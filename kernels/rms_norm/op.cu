#include "kernels/rms_norm/op_cuda.hpp"

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"

namespace fedllm::kernels::cuda {
namespace {

// A block norms one part of a row; 8 elements a thread and turn.
__global__ void forward(RmsNorm norm, MatrixView<BF16> x, MatrixView<const BF16> add, MatrixView<BF16> y,
                        float* rstd) {
    auto* scratch = shared_memory<float>();
    const std::size_t row = blockIdx.x;
    const std::size_t size = x.cols / norm.groups;
    const std::size_t first = blockIdx.y * size;
    BF16* from = x.data + row * x.pitch + first;
    const BF16* more = add.data == nullptr ? nullptr : add.data + row * add.pitch + first;
    float sum = 0;
    for (std::size_t c = threadIdx.x; c < size; c += blockDim.x) {
        if (more != nullptr) from[c] = from_float<BF16>(to_float(from[c]) + to_float(more[c]));
        const float value = to_float(from[c]);
        sum += value * value;
    }
    const float r = rsqrtf(block_sum(sum, scratch) / static_cast<float>(size) + norm.epsilon);
    if (threadIdx.x == 0) rstd[row * norm.groups + blockIdx.y] = r;
    BF16* to = y.data + row * y.pitch + first;
    for (std::size_t c = threadIdx.x; c < size; c += blockDim.x) {
        to[c] = from_float<BF16>(to_float(from[c]) * r * norm.weight[c]);
    }
}

}  // namespace

void rms_norm_forward(const Stream& stream, const RmsNorm& norm, DeviceMatrix x, ConstDeviceMatrix add,
                      DeviceMatrix y, float* rstd) {
    launch(stream,
           {.grid = {static_cast<unsigned>(x.rows), static_cast<unsigned>(norm.groups)},
            .threads = 128,
            .shared_bytes = kWarp * sizeof(float)},
           forward, norm, x, add, y, rstd);
}

}  // namespace fedllm::kernels::cuda
