// A frozen linear layer with a low-rank adapter (Hu et al. 2021, eq. 3): Y = X W^T + scale (X A^T) B^T.
// W (N,K) is frozen: its gradient is never formed. Caller provides the (M,R) buffers, so nothing allocates.
#pragma once

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {

struct LoraView {
    ConstMatrix a;       // (R,K)
    ConstMatrix b;       // (N,R)
    float scale = 1.0f;  // alpha / R, or alpha / sqrt(R) for rsLoRA
};
struct LoraGradView {
    Matrix da;  // (R,K), accumulated into
    Matrix db;  // (N,R), accumulated into
};

// y = x w^T + scale s b^T with s = x a^T. s is kept by the caller for the backward pass. `operands` are those
// of the product with w; the adapter's are f32.
void lora_matmul_forward(ThreadPool& pool, ConstMatrix x,  // (M,K)
                         WeightView w,                     // (N,K)
                         LoraView lora, Matrix s,          // (M,R), written
                         Matrix y,                         // (M,N), overwritten
                         Operands operands = Operands::F32);

// ds = scale dy b;  dx (+)= dy w + ds a;  da += ds^T x;  db += scale dy^T s.
void lora_matmul_backward(ThreadPool& pool, ConstMatrix dy,  // (M,N)
                          ConstMatrix x,                     // (M,K)
                          WeightView w,                      // (N,K)
                          LoraView lora, ConstMatrix s,      // (M,R) from the forward pass
                          Matrix ds,                         // (M,R), scratch
                          Matrix dx,                         // (M,K); data == nullptr: not wanted
                          LoraGradView grad, Write dx_write = Write::Overwrite,
                          Operands operands = Operands::F32);

// The adapter alone, over a base whose product is already in y and dx (kernels/int8_matmul):
// s = x a^T;  y += scale s b^T
void lora_add_forward(ThreadPool& pool, ConstMatrix x,     // (M,K)
                      LoraView lora, Matrix s, Matrix y);  // (M,R), (M,N)

// ds = scale dy b;  dx += ds a;  da += ds^T x;  db += scale dy^T s.
void lora_add_backward(ThreadPool& pool, ConstMatrix dy, ConstMatrix x, LoraView lora, ConstMatrix s,
                       Matrix ds, Matrix dx, LoraGradView grad);

}  // namespace fedllm::kernels
