#include "kernels/layer_norm/op.hpp"

#include <algorithm>
#include <cmath>

#include "common/base/result.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/layer_norm/op_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {
namespace {

// x - mean; lanes behind the row are 0, so that they add nothing to a sum.
HWY_INLINE Vector centred(Floats d, const float* x, Vector mean, std::size_t left) {
    const Vector v = hn::Sub(load_n(d, x, left), mean);
    return left >= hn::Lanes(d) ? v : hn::IfThenElseZero(hn::FirstN(d, left), v);
}

// Variance from the centred values, in a second pass: no cancellation where the mean is large.
void NormRow(const float* x, const float* weight, const float* bias, std::size_t cols, float epsilon,
             float* y, float* rstd, float* mean) {
    const Floats d;
    const std::size_t lanes = hn::Lanes(d);
    const float count = static_cast<float>(cols);
    Vector sum = hn::Zero(d);
    for (std::size_t c = 0; c < cols; c += lanes) sum = hn::Add(sum, load_n(d, x + c, cols - c));
    *mean = sum_of(d, sum) / count;
    const Vector middle = hn::Set(d, *mean);
    Vector squares = hn::Zero(d);
    for (std::size_t c = 0; c < cols; c += lanes) {
        const Vector v = centred(d, x + c, middle, cols - c);
        squares = hn::MulAdd(v, v, squares);
    }
    *rstd = 1.0f / std::sqrt(sum_of(d, squares) / count + epsilon);
    for (std::size_t c = 0; c < cols; c += lanes) {
        const std::size_t left = cols - c;
        const Vector normed = hn::Mul(centred(d, x + c, middle, left), hn::Set(d, *rstd));
        store_n(d, hn::MulAdd(normed, load_n(d, weight + c, left), load_n(d, bias + c, left)), y + c, left);
    }
}

// With g = dy * weight and n = (x - mean) rstd: dx = rstd * (g - mean(g) - n mean(g n)).
void NormRowBackward(const float* dy, const float* x, const float* weight, float rstd, float mean,
                     std::size_t cols, float* dx, bool accumulate) {
    const Floats d;
    const std::size_t lanes = hn::Lanes(d);
    const float count = static_cast<float>(cols);
    const Vector middle = hn::Set(d, mean);
    Vector sum = hn::Zero(d), products = hn::Zero(d);
    for (std::size_t c = 0; c < cols; c += lanes) {
        const std::size_t left = cols - c;
        const Vector g = hn::Mul(load_n(d, dy + c, left), load_n(d, weight + c, left));
        sum = hn::Add(sum, g);
        products = hn::MulAdd(g, centred(d, x + c, middle, left), products);
    }
    const Vector shift = hn::Set(d, sum_of(d, sum) / count);
    const Vector pull = hn::Set(d, sum_of(d, products) / count * rstd * rstd);
    for (std::size_t c = 0; c < cols; c += lanes) {
        const std::size_t left = cols - c;
        const Vector g = hn::Mul(load_n(d, dy + c, left), load_n(d, weight + c, left));
        const Vector inner = hn::NegMulAdd(centred(d, x + c, middle, left), pull, hn::Sub(g, shift));
        Vector out = hn::Mul(inner, hn::Set(d, rstd));
        if (accumulate) out = hn::Add(out, load_n(d, dx + c, left));
        store_n(d, out, dx + c, left);
    }
}

// dweight[c] += sum over rows of dy (x - mean) rstd and dbias[c] += sum of dy, for one block of columns, in
// the order of the rows. Either may be nullptr.
void ParameterBackward(ConstMatrix dy, ConstMatrix x, const float* rstd, const float* mean, std::size_t first,
                       std::size_t count, float* dweight, float* dbias) {
    const Floats d;
    const std::size_t lanes = hn::Lanes(d);
    for (std::size_t c = first; c < first + count; c += lanes) {
        const std::size_t left = first + count - c;
        Vector products = hn::Zero(d), sum = hn::Zero(d);
        for (std::size_t m = 0; m < dy.rows; ++m) {
            const Vector g = load_n(d, dy.row(m) + c, left);
            const Vector normed =
                hn::Mul(centred(d, x.row(m) + c, hn::Set(d, mean[m]), left), hn::Set(d, rstd[m]));
            products = hn::MulAdd(g, normed, products);
            sum = hn::Add(sum, g);
        }
        if (dweight != nullptr) {
            store_n(d, hn::Add(products, load_n(d, dweight + c, left)), dweight + c, left);
        }
        if (dbias != nullptr) store_n(d, hn::Add(sum, load_n(d, dbias + c, left)), dbias + c, left);
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::kernels {
namespace {

HWY_EXPORT(NormRow);
HWY_EXPORT(NormRowBackward);
HWY_EXPORT(ParameterBackward);

constexpr std::size_t kRowsPerItem = 16;
constexpr std::size_t kColsPerItem = 64;

}  // namespace

void layer_norm_forward(ThreadPool& pool, ConstMatrix x, const float* weight, const float* bias,
                        float epsilon, Matrix y, float* rstd, float* mean) {
    FEDLLM_CHECK(x.rows == y.rows && x.cols == y.cols, "layer_norm_forward: shapes differ");
    pool.parallel_for((x.rows + kRowsPerItem - 1) / kRowsPerItem, [&](std::size_t item) {
        const std::size_t end = std::min(x.rows, (item + 1) * kRowsPerItem);
        for (std::size_t m = item * kRowsPerItem; m < end; ++m) {
            HWY_DYNAMIC_DISPATCH(NormRow)
            (x.row(m), weight, bias, x.cols, epsilon, y.row(m), rstd + m, mean + m);
        }
    });
}

void layer_norm_backward(ThreadPool& pool, ConstMatrix dy, ConstMatrix x, const float* weight,
                         const float* rstd, const float* mean, Matrix dx, Write dx_write, float* dweight,
                         float* dbias) {
    FEDLLM_CHECK(x.rows == dy.rows && x.cols == dy.cols && dx.rows == x.rows && dx.cols == x.cols,
                 "layer_norm_backward: shapes differ");
    if (dweight != nullptr || dbias != nullptr) {  // first, so that dx may be dy
        pool.parallel_for((x.cols + kColsPerItem - 1) / kColsPerItem, [&](std::size_t item) {
            const std::size_t first = item * kColsPerItem;
            HWY_DYNAMIC_DISPATCH(ParameterBackward)
            (dy, x, rstd, mean, first, std::min(kColsPerItem, x.cols - first), dweight, dbias);
        });
    }
    pool.parallel_for((x.rows + kRowsPerItem - 1) / kRowsPerItem, [&](std::size_t item) {
        const std::size_t end = std::min(x.rows, (item + 1) * kRowsPerItem);
        for (std::size_t m = item * kRowsPerItem; m < end; ++m) {
            HWY_DYNAMIC_DISPATCH(NormRowBackward)
            (dy.row(m), x.row(m), weight, rstd[m], mean[m], x.cols, dx.row(m), dx_write == Write::Accumulate);
        }
    });
}

}  // namespace fedllm::kernels
#endif
