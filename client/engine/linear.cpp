#include "client/engine/linear.hpp"

#include <utility>

#include "kernels/int8_matmul/op.hpp"
#include "kernels/matmul/op.hpp"

namespace fedllm::client::engine {

using kernels::Matrix;

void linear_forward(kernels::ThreadPool& pool, const Linear& linear, kernels::ConstMatrix x, Matrix s,
                    Matrix y) {
    if (linear.integers != nullptr) {
        kernels::int8_matmul_forward(pool, x, *linear.integers, y);
        if (linear.has_lora()) kernels::lora_add_forward(pool, x, linear.lora, s, y);
    } else if (linear.has_lora()) {
        kernels::lora_matmul_forward(pool, x, linear.weight, linear.lora, s, y, linear.operands);
    } else if (linear.turned) {  // the product of the other's backward pass
        kernels::matmul_backward_input(pool, x, linear.weight, y);
    } else {
        kernels::matmul_forward(pool, x, linear.weight, y, kernels::Write::Overwrite, linear.operands);
    }
    if (linear.bias != nullptr) kernels::add_bias(pool, linear.bias, y);
}

void linear_backward(kernels::ThreadPool& pool, const Linear& linear, kernels::ConstMatrix dy,
                     kernels::ConstMatrix x, kernels::ConstMatrix s, Matrix ds, Matrix dx,
                     kernels::Write dx_write) {
    if (linear.integers != nullptr && linear.integers->has_backward()) {
        if (dx.data != nullptr) kernels::int8_matmul_backward_input(pool, dy, *linear.integers, dx, dx_write);
        if (linear.has_lora())
            kernels::lora_add_backward(pool, dy, x, linear.lora, s, ds, dx, linear.lora_gradient);
    } else if (linear.has_lora()) {
        kernels::lora_matmul_backward(pool, dy, x, linear.weight, linear.lora, s, ds, dx,
                                      linear.lora_gradient, dx_write, linear.operands);
    } else if (dx.data != nullptr && linear.turned) {
        kernels::matmul_forward(pool, dy, linear.weight, dx, dx_write);
    } else if (dx.data != nullptr) {
        kernels::matmul_backward_input(pool, dy, linear.weight, dx, dx_write, linear.operands);
    }
    if (linear.weight_gradient.data != nullptr) {
        const auto [rows, cols] = linear.turned ? std::pair(x, dy) : std::pair(dy, x);
        kernels::matmul_backward_weight(pool, rows, cols, linear.weight_gradient);
    }
    if (linear.bias_gradient != nullptr) kernels::add_bias_backward(pool, dy, linear.bias_gradient);
}

}  // namespace fedllm::client::engine
