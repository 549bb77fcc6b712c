#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/vectors.cuh"
#include "kernels/swiglu/op_cuda.hpp"

namespace fedllm::kernels::cuda {
namespace {

__global__ void forward(MatrixView<const BF16> gate, MatrixView<const BF16> up, MatrixView<BF16> out) {
    each_eight(out.rows, out.cols, [&](std::size_t m, std::size_t f, unsigned left) {
        const EightFloats g = to_floats(load_eight(at(gate, m, f)));
        const EightFloats u = to_floats(load_eight(at(up, m, f)));
        EightFloats y;
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kEight; ++i) y.at[i] = g.at[i] * sigmoid(g.at[i]) * u.at[i];
        store_eight(at(out, m, f), to_eight(y), left);
    });
}

// d silu(g) / dg = s + g s (1 - s) with s = sigmoid(g). All is read before anything is written.
__global__ void backward(MatrixView<const BF16> dout, MatrixView<BF16> gate, MatrixView<BF16> up,
                         MatrixView<BF16> act) {
    each_eight(gate.rows, gate.cols, [&](std::size_t m, std::size_t f, unsigned left) {
        const EightFloats d = to_floats(load_eight(at(dout, m, f)));
        EightFloats g = to_floats(load_eight(at(gate, m, f)));
        EightFloats u = to_floats(load_eight(at(up, m, f)));
        EightFloats y;
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kEight; ++i) {
            const float s = sigmoid(g.at[i]), silu = g.at[i] * s;
            y.at[i] = silu * u.at[i];
            g.at[i] = d.at[i] * u.at[i] * (s + silu * (1.0f - s));
            u.at[i] = d.at[i] * silu;
        }
        store_eight(at(gate, m, f), to_eight(g), left);
        store_eight(at(up, m, f), to_eight(u), left);
        if (act.data != nullptr) store_eight(at(act, m, f), to_eight(y), left);
    });
}

}  // namespace

void swiglu_forward(const Stream& stream, ConstDeviceMatrix gate, ConstDeviceMatrix up, DeviceMatrix out) {
    launch(stream, for_eights(out.rows, out.cols), forward, gate, up, out);
}

void swiglu_backward(const Stream& stream, ConstDeviceMatrix dout, DeviceMatrix gate, DeviceMatrix up,
                     DeviceMatrix act) {
    launch(stream, for_eights(gate.rows, gate.cols), backward, dout, gate, up, act);
}

}  // namespace fedllm::kernels::cuda
