#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/vectors.cuh"
#include "kernels/gelu/op_cuda.hpp"

namespace fedllm::kernels::cuda {
namespace {

constexpr float kSlope = 1.5957691216057308f;  // 2 sqrt(2/pi): 0.5 (1 + tanh(u)) is sigmoid(2 u)
constexpr float kCubic = 0.044715f;

// sigmoid(2 u) with u = sqrt(2/pi) (x + 0.044715 x^3).
__device__ __forceinline__ float gate_of(float x) { return sigmoid(x * kSlope * (x * x * kCubic + 1.0f)); }

__global__ void forward(MatrixView<const BF16> x, MatrixView<BF16> out) {
    each_eight(out.rows, out.cols, [&](std::size_t m, std::size_t f, unsigned left) {
        EightFloats v = to_floats(load_eight(at(x, m, f)));
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kEight; ++i) v.at[i] *= gate_of(v.at[i]);
        store_eight(at(out, m, f), to_eight(v), left);
    });
}

// d gelu(x) / dx = s + x s (1 - s) 2 u' with s = sigmoid(2 u).
__global__ void backward(MatrixView<const BF16> dout, MatrixView<BF16> x) {
    each_eight(x.rows, x.cols, [&](std::size_t m, std::size_t f, unsigned left) {
        const EightFloats d = to_floats(load_eight(at(dout, m, f)));
        EightFloats v = to_floats(load_eight(at(x, m, f)));
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kEight; ++i) {
            const float value = v.at[i], s = gate_of(value);
            const float bend = s * (1.0f - s) * (kSlope * (value * value * (3.0f * kCubic) + 1.0f));
            v.at[i] = d.at[i] * (s + value * bend);
        }
        store_eight(at(x, m, f), to_eight(v), left);
    });
}

}  // namespace

void gelu_forward(const Stream& stream, ConstDeviceMatrix x, DeviceMatrix out) {
    launch(stream, for_eights(out.rows, out.cols), forward, x, out);
}

void gelu_backward(const Stream& stream, ConstDeviceMatrix dout, DeviceMatrix x) {
    launch(stream, for_eights(x.rows, x.cols), backward, dout, x);
}

}  // namespace fedllm::kernels::cuda
