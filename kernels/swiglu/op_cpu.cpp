#include "kernels/swiglu/op.hpp"

#include "common/base/result.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/swiglu/op_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {
namespace {

void SwigluRow(const float* gate, const float* up, std::size_t cols, float* out) {
    const Floats d;
    for (std::size_t f = 0; f < cols; f += hn::Lanes(d)) {
        const Vector g = load_n(d, gate + f, cols - f);
        const Vector silu = hn::Mul(g, sigmoid_of(d, g));
        store_n(d, hn::Mul(silu, load_n(d, up + f, cols - f)), out + f, cols - f);
    }
}

// d silu(g) / dg = s + g s (1 - s) with s = sigmoid(g).
void SwigluRowBackward(const float* dout, const float* gate, const float* up, std::size_t cols, float* dgate,
                       float* dup) {
    const Floats d;
    const Vector one = hn::Set(d, 1.0f);
    for (std::size_t f = 0; f < cols; f += hn::Lanes(d)) {
        const Vector dv = load_n(d, dout + f, cols - f);
        const Vector g = load_n(d, gate + f, cols - f);
        const Vector u = load_n(d, up + f, cols - f);
        const Vector s = sigmoid_of(d, g);
        const Vector silu = hn::Mul(g, s);
        const Vector slope = hn::MulAdd(silu, hn::Sub(one, s), s);
        store_n(d, hn::Mul(hn::Mul(dv, u), slope), dgate + f, cols - f);
        store_n(d, hn::Mul(dv, silu), dup + f, cols - f);
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::kernels {
namespace {

HWY_EXPORT(SwigluRow);
HWY_EXPORT(SwigluRowBackward);

bool same_shape(ConstMatrix a, ConstMatrix b) { return a.rows == b.rows && a.cols == b.cols; }

}  // namespace

void swiglu_forward(ThreadPool& pool, ConstMatrix gate, ConstMatrix up, Matrix out) {
    FEDLLM_CHECK(same_shape(gate, up) && same_shape(gate, out), "swiglu_forward: shapes differ");
    pool.parallel_for(gate.rows, [&](std::size_t m) {
        HWY_DYNAMIC_DISPATCH(SwigluRow)(gate.row(m), up.row(m), gate.cols, out.row(m));
    });
}

void swiglu_backward(ThreadPool& pool, ConstMatrix dout, ConstMatrix gate, ConstMatrix up, Matrix dgate,
                     Matrix dup) {
    FEDLLM_CHECK(same_shape(gate, up) && same_shape(gate, dout), "swiglu_backward: shapes differ");
    FEDLLM_CHECK(same_shape(gate, dgate) && same_shape(gate, dup), "swiglu_backward: shapes differ");
    pool.parallel_for(gate.rows, [&](std::size_t m) {
        HWY_DYNAMIC_DISPATCH(SwigluRowBackward)
        (dout.row(m), gate.row(m), up.row(m), gate.cols, dgate.row(m), dup.row(m));
    });
}

}  // namespace fedllm::kernels
#endif
