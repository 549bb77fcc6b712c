#include "client/engine/block.hpp"

#include "kernels/gelu/op.hpp"
#include "kernels/layer_norm/op.hpp"
#include "kernels/rms_norm/op.hpp"
#include "kernels/swiglu/op.hpp"

namespace fedllm::client::engine {

using kernels::ConstMatrix;
using kernels::Matrix;
using kernels::Write;
using model::Activation;
using model::NormKind;

QkvViews split_qkv(const model::ModelConfig& config, float* data, std::size_t rows) {
    const std::size_t q = config.query_width();
    const std::size_t kv = config.key_width();
    const Matrix all(data, rows, q + 2 * kv);
    return {all, all.columns(0, q), all.columns(q, kv), all.columns(q + kv, kv)};
}

void norm_forward(kernels::ThreadPool& pool, const Norm& norm, ConstMatrix x, Matrix y, float* stats) {
    if (norm.kind == NormKind::Rms) {
        kernels::rms_norm_forward(pool, x, norm.weight, norm.epsilon, y, stats);
    } else {
        kernels::layer_norm_forward(pool, x, norm.weight, norm.bias, norm.epsilon, y, stats, stats + x.rows);
    }
}

void norm_backward(kernels::ThreadPool& pool, const Norm& norm, ConstMatrix dy, ConstMatrix x,
                   const float* stats, Matrix dx, Write write) {
    if (norm.kind == NormKind::Rms) {
        kernels::rms_norm_backward(pool, dy, x, norm.weight, stats, dx, write, norm.weight_gradient);
    } else {
        kernels::layer_norm_backward(pool, dy, x, norm.weight, stats, stats + x.rows, dx, write,
                                     norm.weight_gradient, norm.bias_gradient);
    }
}

void norm_heads_forward(kernels::ThreadPool& pool, const Norm& norm, std::size_t head_size, ConstMatrix x,
                        Matrix y, float* rstd) {
    for (std::size_t at = 0; at < x.cols; at += head_size, rstd += x.rows) {
        kernels::rms_norm_forward(pool, x.columns(at, head_size), norm.weight, norm.epsilon,
                                  y.columns(at, head_size), rstd);
    }
}

void norm_heads_backward(kernels::ThreadPool& pool, const Norm& norm, std::size_t head_size, ConstMatrix dy,
                         ConstMatrix x, const float* rstd, Matrix dx) {
    for (std::size_t at = 0; at < x.cols; at += head_size, rstd += x.rows) {
        kernels::rms_norm_backward(pool, dy.columns(at, head_size), x.columns(at, head_size), norm.weight,
                                   rstd, dx.columns(at, head_size), Write::Overwrite, norm.weight_gradient);
    }
}

void activation_forward(kernels::ThreadPool& pool, Activation activation, ConstMatrix gate, ConstMatrix up,
                        Matrix out) {
    if (activation == Activation::Swiglu) {
        kernels::swiglu_forward(pool, gate, up, out);
    } else {
        kernels::gelu_forward(pool, up, out);
    }
}

void activation_backward(kernels::ThreadPool& pool, Activation activation, ConstMatrix dout, Matrix gate,
                         Matrix up) {
    if (activation == Activation::Swiglu) {
        kernels::swiglu_backward(pool, dout, gate, up, gate, up);
    } else {
        kernels::gelu_backward(pool, dout, up, up);
    }
}

}  // namespace fedllm::client::engine
