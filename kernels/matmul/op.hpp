// Dense products of a linear layer Y = X W^T (+ bias). M tokens, K input channels, N output channels.
// Sums run in f32 in a fixed order; the result does not depend on the number of threads.
#pragma once

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {

// y = x w^T, or y += x w^T.
void matmul_forward(ThreadPool& pool, ConstMatrix x,  // (M,K)
                    WeightView w,                     // (N,K)
                    Matrix y,                         // (M,N)
                    Write write = Write::Overwrite, Operands operands = Operands::F32);

// dx = dy w, or dx += dy w.
void matmul_backward_input(ThreadPool& pool, ConstMatrix dy,  // (M,N)
                           WeightView w,                      // (N,K)
                           Matrix dx,                         // (M,K)
                           Write write = Write::Overwrite, Operands operands = Operands::F32);

// dw = dy^T x, or dw += dy^T x.
void matmul_backward_weight(ThreadPool& pool, ConstMatrix dy,  // (M,N)
                            ConstMatrix x,                     // (M,K)
                            Matrix dw,                         // (N,K)
                            Write write = Write::Accumulate);

// y[m,:] += bias; and its gradient dbias += sum over m of dy[m,:].
void add_bias(ThreadPool& pool, const float* bias, Matrix y);            // (N), (M,N)
void add_bias_backward(ThreadPool& pool, ConstMatrix dy, float* dbias);  // (M,N), (N)

}  // namespace fedllm::kernels
