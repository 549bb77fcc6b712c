#include "client/cuda_engine/products.hpp"

namespace fedllm::client::cuda_engine {

using engine::Linear;
using kernels::Matrix;
using kernels::cuda::Element;
using kernels::cuda::Gemm;
using kernels::cuda::GemmOperand;
using kernels::cuda::operand;
using kernels::cuda::Panel;

namespace {

// d (M,N) of bf16 with everything else at rest.
Gemm product(const GemmOperand& a, const GemmOperand& b, std::size_t k, const DeviceMatrix& d) {
    Gemm gemm;
    gemm.m = d.rows;
    gemm.n = d.cols;
    gemm.k = k;
    gemm.a = a;
    gemm.b = b;
    gemm.d = d.data;
    gemm.d_pitch = d.pitch;
    return gemm;
}

void add_to(Gemm& gemm, const ConstDeviceMatrix& add) {
    if (add.data == nullptr) return;
    gemm.c = add.data;
    gemm.c_pitch = add.pitch;
    gemm.beta = 1.0F;
}

}  // namespace

void Products::forward(const Group& group, DeviceMatrix x, DeviceMatrix y, ConstDeviceMatrix add) {
    const GroupWeights& weights = panels_->acquire(group);
    adapt(group, weights, x);
    const DeviceMatrix outputs(y.data, y.rows, group.n, y.pitch);
    if (group.fp8) {
        multiply_fp8(x, weights.fp8.forward, outputs, add);
        add_low_rank(group, tail(x, 0, group.r), operand(weights.b(), /*turned=*/true), outputs);
    } else {
        const std::size_t depth = group.k + group.r;
        Gemm gemm = product(operand(widened(x, depth)),
                            operand(weights.panel.values.slice(0, group.n), /*turned=*/true), depth, outputs);
        add_to(gemm, add);
        blas_.gemm(*stream_, gemm);
    }
    for (std::size_t i = 0; i < group.parts.size(); ++i) {
        const Linear linear = network_->linear(group.layer, group.parts[i], trained_.params, nullptr);
        if (linear.bias == nullptr) continue;
        kernels::cuda::add_bias(*stream_, linear.bias, y.columns(group.pieces[i].row, group.pieces[i].rows));
    }
}

void Products::adapt(const Group& group, DeviceMatrix x) {
    if (group.r != 0) adapt(group, panels_->acquire(group), x);
}

void Products::adapt(const Group& group, const GroupWeights& weights, DeviceMatrix x) {
    if (group.r == 0) return;
    blas_.gemm(*stream_,
               product(operand(x), operand(weights.a(), /*turned=*/true), group.k, tail(x, 0, group.r)));
}

// y = x weight^T (+ add): the rows of both in FP8, each with its scale.
void Products::multiply_fp8(ConstDeviceMatrix x, const Fp8Matrix& weight, DeviceMatrix y,
                            ConstDeviceMatrix add) {
    const Fp8Matrix rows = to_fp8(*stream_, x, fp8_);
    Gemm gemm = product(rows.operand(), weight.operand(/*turned=*/true), rows.pitch, y);
    add_to(gemm, add);
    blas_.gemm(*stream_, gemm);
}

// y += what the adapters make of S or dS, in bf16.
void Products::add_low_rank(const Group& group, ConstDeviceMatrix s, const GemmOperand& border,
                            DeviceMatrix y) {
    if (group.r == 0) return;
    Gemm gemm = product(operand(s), border, group.r, y);
    add_to(gemm, y);
    blas_.gemm(*stream_, gemm);
}

void Products::backward(const Group& group, DeviceMatrix dy, DeviceMatrix x, DeviceMatrix dx) {
    const GroupWeights& weights = panels_->acquire(group);
    for (std::size_t i = 0; i < group.parts.size(); ++i) backward_part(group, i, weights.panel, dy, x);
    if (dx.data == nullptr) return;
    const DeviceMatrix inputs(dx.data, dx.rows, group.k, dx.pitch);
    if (group.fp8) {
        multiply_fp8(dy, weights.fp8.backward, inputs);
        return add_low_rank(group, tail(dy, 0, group.r), operand(weights.a()), inputs);
    }
    const std::size_t depth = group.n + group.r;
    blas_.gemm(*stream_, product(operand(widened(dy, depth)), operand(weights.panel.values), depth, inputs));
}

void Products::backward_part(const Group& group, std::size_t index, const Panel& panel, DeviceMatrix dy,
                             DeviceMatrix x) {
    const kernels::cuda::PanelPart& piece = group.pieces[index];
    const Linear linear =
        network_->linear(group.layer, group.parts[index], trained_.params, trained_.gradients);
    const DeviceMatrix mine = dy.columns(piece.row, piece.rows);
    if (piece.rank != 0) {
        const DeviceMatrix ds = tail(dy, piece.place, piece.rank);
        kernels::cuda::low_rank_backward(*stream_, panel, piece, mine, tail(x, piece.place, piece.rank), ds,
                                         linear.lora_gradient.db.data, scratch_);
        add_product(operand(ds, /*turned=*/true), operand(x), piece.rank, x.rows, linear.lora_gradient.da);
    }
    if (linear.weight_gradient.data != nullptr && linear.turned) {
        add_product(operand(x, /*turned=*/true), operand(mine), group.k, x.rows, linear.weight_gradient);
    } else if (linear.weight_gradient.data != nullptr) {
        add_product(operand(mine, /*turned=*/true), operand(x), piece.rows, x.rows, linear.weight_gradient);
    }
    if (linear.bias_gradient != nullptr)
        kernels::cuda::add_bias_backward(*stream_, mine, linear.bias_gradient, scratch_);
}

// to (M,N) += a b, in f32.
void Products::add_product(const GemmOperand& a, const GemmOperand& b, std::size_t m, std::size_t k,
                           Matrix to) {
    Gemm gemm;
    gemm.m = m;
    gemm.n = to.cols;
    gemm.k = k;
    gemm.a = a;
    gemm.b = b;
    gemm.c = to.data;
    gemm.c_pitch = to.pitch;
    gemm.d = to.data;
    gemm.d_pitch = to.pitch;
    gemm.d_type = Element::F32;
    gemm.beta = 1.0F;
    blas_.gemm(*stream_, gemm);
}

// The vocabulary is rounded up to 8: the panel has rows of zeros there, and so the logits.
void Products::head_forward(ConstDeviceMatrix x, DeviceMatrix logits) {
    const Panel& panel = panels_->head().panel;
    const DeviceMatrix padded(logits.data, logits.rows, panel.values.rows, logits.pitch);
    const Fp8Weight& fp8 = panels_->head().fp8;
    if (!fp8.empty()) return multiply_fp8(x, fp8.forward, padded);
    blas_.gemm(*stream_, product(operand(x), operand(panel.values, /*turned=*/true), panel.k, padded));
}

void Products::head_logits(ConstDeviceMatrix x, Matrix logits) {
    const Panel& panel = panels_->head().panel;
    Gemm gemm;
    gemm.m = logits.rows;
    gemm.n = logits.cols;
    gemm.k = panel.k;
    gemm.a = operand(x);
    gemm.b = operand(panel.values, /*turned=*/true);
    gemm.d = logits.data;
    gemm.d_pitch = logits.pitch;
    gemm.d_type = Element::F32;
    blas_.gemm(*stream_, gemm);
}

void Products::head_backward(DeviceMatrix dlogits, ConstDeviceMatrix x, DeviceMatrix dx) {
    const Panel& panel = panels_->head().panel;
    const Linear head = network_->head(trained_.params, trained_.gradients);
    if (head.weight_gradient.data != nullptr)
        add_product(operand(dlogits, /*turned=*/true), operand(x), panel.n, x.rows, head.weight_gradient);
    const DeviceMatrix inputs(dx.data, dx.rows, panel.k, dx.pitch);
    const Fp8Weight& fp8 = panels_->head().fp8;
    if (!fp8.empty()) return multiply_fp8(dlogits, fp8.backward, inputs);
    blas_.gemm(*stream_, product(operand(dlogits), operand(panel.values), panel.values.rows, inputs));
}

}  // namespace fedllm::client::cuda_engine
