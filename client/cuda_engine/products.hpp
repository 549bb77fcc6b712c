// Products: the linear layers, group by group. The only place that multiplies with a panel, or with FP8
// beside it: another way to multiply with frozen weights (kernels/quant_matmul) begins here.
#pragma once

#include "client/cuda_engine/groups.hpp"
#include "client/cuda_engine/memory.hpp"
#include "client/cuda_engine/panels.hpp"
#include "kernels/matmul/op_cuda.hpp"

namespace fedllm::client::cuda_engine {

// What is trained, in the GPU's memory. Null without.
struct TrainedValues {
    float* params = nullptr;
    float* gradients = nullptr;
};

// Lifecycle: what it was made from must outlive it. Concurrency: one call at a time.
class Products {
public:
    Products(const kernels::cuda::Stream& stream, const engine::Network& network, Panels& panels,
             TrainedValues trained, float* scratch, const Fp8Matrix& fp8)
        : stream_(&stream),
          network_(&network),
          panels_(&panels),
          trained_(trained),
          scratch_(scratch),
          fp8_(fp8) {}

    // y = all projections of x (+ add), side by side. S = x A^T stays behind x's columns.
    void forward(const Group& group, DeviceMatrix x, DeviceMatrix y, ConstDeviceMatrix add = {});
    // S alone, for a backward pass over x computed again.
    void adapt(const Group& group, DeviceMatrix x);
    // Gradients of what is trained; dx (data null: not wanted) is written. dS comes behind dy's columns.
    void backward(const Group& group, DeviceMatrix dy, DeviceMatrix x, DeviceMatrix dx);

    void head_forward(ConstDeviceMatrix x, DeviceMatrix logits);               // (M,C), (M,V)
    void head_logits(ConstDeviceMatrix x, kernels::MatrixView<float> logits);  // never in FP8
    void head_backward(DeviceMatrix dlogits, ConstDeviceMatrix x, DeviceMatrix dx);

private:
    void adapt(const Group& group, const GroupWeights& weights, DeviceMatrix x);
    void multiply_fp8(ConstDeviceMatrix x, const Fp8Matrix& weight, DeviceMatrix y,
                      ConstDeviceMatrix add = {});
    void add_low_rank(const Group& group, ConstDeviceMatrix s, const kernels::cuda::GemmOperand& border,
                      DeviceMatrix y);
    void backward_part(const Group& group, std::size_t index, const kernels::cuda::Panel& panel,
                       DeviceMatrix dy, DeviceMatrix x);
    void add_product(const kernels::cuda::GemmOperand& a, const kernels::cuda::GemmOperand& b, std::size_t m,
                     std::size_t k, kernels::Matrix to);

    const kernels::cuda::Stream* stream_;
    const engine::Network* network_;
    Panels* panels_;
    TrainedValues trained_;
    float* scratch_;
    Fp8Matrix fp8_;  // room for rows in FP8
    kernels::cuda::Blas blas_;
};

}  // namespace fedllm::client::cuda_engine
