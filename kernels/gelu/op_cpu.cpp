#include "kernels/gelu/op.hpp"

#include "common/base/result.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gelu/op_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {
namespace {

constexpr float kSlope = 1.5957691216057308f;  // 2 sqrt(2/pi): 0.5 (1 + tanh(u)) is sigmoid(2 u)
constexpr float kCubic = 0.044715f;

// sigmoid(2 u) with u = sqrt(2/pi) (x + 0.044715 x^3).
HWY_INLINE Vector gate_of(Floats d, Vector x) {
    const Vector inner = hn::MulAdd(hn::Mul(x, x), hn::Set(d, kCubic), hn::Set(d, 1.0f));
    return sigmoid_of(d, hn::Mul(hn::Mul(x, hn::Set(d, kSlope)), inner));
}

void GeluRow(const float* x, std::size_t cols, float* out) {
    const Floats d;
    for (std::size_t f = 0; f < cols; f += hn::Lanes(d)) {
        const Vector v = load_n(d, x + f, cols - f);
        store_n(d, hn::Mul(v, gate_of(d, v)), out + f, cols - f);
    }
}

// d gelu(x) / dx = s + x s (1 - s) 2 u' with s = sigmoid(2 u).
void GeluRowBackward(const float* dout, const float* x, std::size_t cols, float* dx) {
    const Floats d;
    const Vector one = hn::Set(d, 1.0f);
    for (std::size_t f = 0; f < cols; f += hn::Lanes(d)) {
        const Vector v = load_n(d, x + f, cols - f);
        const Vector s = gate_of(d, v);
        const Vector inner = hn::MulAdd(hn::Mul(v, v), hn::Set(d, 3.0f * kCubic), one);
        const Vector bend = hn::Mul(hn::Mul(s, hn::Sub(one, s)), hn::Mul(inner, hn::Set(d, kSlope)));
        const Vector slope = hn::MulAdd(v, bend, s);
        store_n(d, hn::Mul(load_n(d, dout + f, cols - f), slope), dx + f, cols - f);
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::kernels {
namespace {

HWY_EXPORT(GeluRow);
HWY_EXPORT(GeluRowBackward);

bool same_shape(ConstMatrix a, ConstMatrix b) { return a.rows == b.rows && a.cols == b.cols; }

}  // namespace

void gelu_forward(ThreadPool& pool, ConstMatrix x, Matrix out) {
    FEDLLM_CHECK(same_shape(x, out), "gelu_forward: shapes differ");
    pool.parallel_for(x.rows, [&](std::size_t m) {
        HWY_DYNAMIC_DISPATCH(GeluRow)(x.row(m), x.cols, out.row(m));
    });
}

void gelu_backward(ThreadPool& pool, ConstMatrix dout, ConstMatrix x, Matrix dx) {
    FEDLLM_CHECK(same_shape(x, dout) && same_shape(x, dx), "gelu_backward: shapes differ");
    pool.parallel_for(x.rows, [&](std::size_t m) {
        HWY_DYNAMIC_DISPATCH(GeluRowBackward)(dout.row(m), x.row(m), x.cols, dx.row(m));
    });
}

}  // namespace fedllm::kernels
#endif
