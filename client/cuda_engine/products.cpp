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

}  // namespace

void Products::forward(const Group& group, DeviceMatrix x, DeviceMatrix y, ConstDeviceMatrix add) {
    const Panel& panel = panels_->acquire(group);
    adapt(group, panel, x);
    const std::size_t depth = group.k + group.r;
    Gemm gemm = product(operand(widened(x, depth)), operand(panel.values.slice(0, group.n), /*turned=*/true),
                        depth, {y.data, y.rows, group.n, y.pitch});
    if (add.data != nullptr) {
        gemm.c = add.data;
        gemm.c_pitch = add.pitch;
        gemm.beta = 1.0F;
    }
    blas_.gemm(*stream_, gemm);
    for (std::size_t i = 0; i < group.parts.size(); ++i) {
        const Linear linear = network_->linear(group.layer, group.parts[i], trained_.params, nullptr);
        if (linear.bias == nullptr) continue;
        kernels::cuda::add_bias(*stream_, linear.bias, y.columns(group.pieces[i].row, group.pieces[i].rows));
    }
}

void Products::adapt(const Group& group, DeviceMatrix x) {
    if (group.r != 0) adapt(group, panels_->acquire(group), x);
}

void Products::adapt(const Group& group, const Panel& panel, DeviceMatrix x) {
    if (group.r == 0) return;
    blas_.gemm(*stream_, product(operand(x), operand(panel.values.slice(group.n, group.r), /*turned=*/true),
                                 group.k, tail(x, 0, group.r)));
}

void Products::backward(const Group& group, DeviceMatrix dy, DeviceMatrix x, DeviceMatrix dx) {
    const Panel& panel = panels_->acquire(group);
    for (std::size_t i = 0; i < group.parts.size(); ++i) backward_part(group, i, panel, dy, x);
    if (dx.data == nullptr) return;
    const std::size_t depth = group.n + group.r;
    blas_.gemm(*stream_, product(operand(widened(dy, depth)), operand(panel.values), depth,
                                 {dx.data, dx.rows, group.k, dx.pitch}));
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
    const Panel& panel = panels_->head();
    blas_.gemm(*stream_, product(operand(x), operand(panel.values, /*turned=*/true), panel.k,
                                 {logits.data, logits.rows, panel.values.rows, logits.pitch}));
}

void Products::head_logits(ConstDeviceMatrix x, Matrix logits) {
    const Panel& panel = panels_->head();
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
    const Panel& panel = panels_->head();
    const Linear head = network_->head(trained_.params, trained_.gradients);
    if (head.weight_gradient.data != nullptr)
        add_product(operand(dlogits, /*turned=*/true), operand(x), panel.n, x.rows, head.weight_gradient);
    blas_.gemm(*stream_, product(operand(dlogits), operand(panel.values), panel.values.rows,
                                 {dx.data, dx.rows, panel.k, dx.pitch}));
}

}  // namespace fedllm::client::cuda_engine
