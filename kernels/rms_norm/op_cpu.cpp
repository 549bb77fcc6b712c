#include "kernels/rms_norm/op.hpp"

#include <algorithm>
#include <cmath>

#include "common/base/result.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rms_norm/op_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {
namespace {

// Returns 1 / sqrt(mean(x^2) + epsilon) and writes x times it times weight.
float NormRow(const float* x, const float* weight, std::size_t cols, float epsilon, float* y) {
    const Floats d;
    const std::size_t lanes = hn::Lanes(d);
    Vector squares = hn::Zero(d);
    for (std::size_t c = 0; c < cols; c += lanes) {
        const Vector v = load_n(d, x + c, cols - c);
        squares = hn::MulAdd(v, v, squares);
    }
    const float rstd = 1.0f / std::sqrt(sum_of(d, squares) / static_cast<float>(cols) + epsilon);
    for (std::size_t c = 0; c < cols; c += lanes) {
        const Vector normed = hn::Mul(load_n(d, x + c, cols - c), hn::Set(d, rstd));
        store_n(d, hn::Mul(normed, load_n(d, weight + c, cols - c)), y + c, cols - c);
    }
    return rstd;
}

// With g = dy * weight: dx = rstd * (g - x * rstd^2 * mean(g x)).
void NormRowBackward(const float* dy, const float* x, const float* weight, float rstd, std::size_t cols,
                     float* dx, bool accumulate) {
    const Floats d;
    const std::size_t lanes = hn::Lanes(d);
    Vector products = hn::Zero(d);
    for (std::size_t c = 0; c < cols; c += lanes) {
        const Vector g = hn::Mul(load_n(d, dy + c, cols - c), load_n(d, weight + c, cols - c));
        products = hn::MulAdd(g, load_n(d, x + c, cols - c), products);
    }
    const Vector pull = hn::Set(d, sum_of(d, products) / static_cast<float>(cols) * rstd * rstd);
    for (std::size_t c = 0; c < cols; c += lanes) {
        const Vector g = hn::Mul(load_n(d, dy + c, cols - c), load_n(d, weight + c, cols - c));
        const Vector inner = hn::NegMulAdd(load_n(d, x + c, cols - c), pull, g);
        Vector out = hn::Mul(inner, hn::Set(d, rstd));
        if (accumulate) out = hn::Add(out, load_n(d, dx + c, cols - c));
        store_n(d, out, dx + c, cols - c);
    }
}

// dweight[c] += sum over rows of dy x rstd, for one block of columns, in the order of the rows.
void NormWeightBackward(ConstMatrix dy, ConstMatrix x, const float* rstd, std::size_t first,
                        std::size_t count, float* dweight) {
    const Floats d;
    const std::size_t lanes = hn::Lanes(d);
    for (std::size_t c = first; c < first + count; c += lanes) {
        const std::size_t left = first + count - c;
        Vector sum = hn::Zero(d);
        for (std::size_t m = 0; m < dy.rows; ++m) {
            const Vector normed = hn::Mul(load_n(d, x.row(m) + c, left), hn::Set(d, rstd[m]));
            sum = hn::MulAdd(load_n(d, dy.row(m) + c, left), normed, sum);
        }
        store_n(d, hn::Add(sum, load_n(d, dweight + c, left)), dweight + c, left);
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
HWY_EXPORT(NormWeightBackward);

constexpr std::size_t kRowsPerItem = 16;
constexpr std::size_t kColsPerItem = 64;

}  // namespace

void rms_norm_forward(ThreadPool& pool, ConstMatrix x, const float* weight, float epsilon, Matrix y,
                      float* rstd) {
    FEDLLM_CHECK(x.rows == y.rows && x.cols == y.cols, "rms_norm_forward: shapes differ");
    pool.parallel_for((x.rows + kRowsPerItem - 1) / kRowsPerItem, [&](std::size_t item) {
        const std::size_t end = std::min(x.rows, (item + 1) * kRowsPerItem);
        for (std::size_t m = item * kRowsPerItem; m < end; ++m) {
            rstd[m] = HWY_DYNAMIC_DISPATCH(NormRow)(x.row(m), weight, x.cols, epsilon, y.row(m));
        }
    });
}

void rms_norm_backward(ThreadPool& pool, ConstMatrix dy, ConstMatrix x, const float* weight,
                       const float* rstd, Matrix dx, Write dx_write, float* dweight) {
    FEDLLM_CHECK(x.rows == dy.rows && x.cols == dy.cols && dx.rows == x.rows && dx.cols == x.cols,
                 "rms_norm_backward: shapes differ");
    if (dweight != nullptr) {  // first, so that dx may be dy
        pool.parallel_for((x.cols + kColsPerItem - 1) / kColsPerItem, [&](std::size_t item) {
            const std::size_t first = item * kColsPerItem;
            HWY_DYNAMIC_DISPATCH(NormWeightBackward)
            (dy, x, rstd, first, std::min(kColsPerItem, x.cols - first), dweight);
        });
    }
    pool.parallel_for((x.rows + kRowsPerItem - 1) / kRowsPerItem, [&](std::size_t item) {
        const std::size_t end = std::min(x.rows, (item + 1) * kRowsPerItem);
        for (std::size_t m = item * kRowsPerItem; m < end; ++m) {
            HWY_DYNAMIC_DISPATCH(NormRowBackward)
            (dy.row(m), x.row(m), weight, rstd[m], x.cols, dx.row(m), dx_write == Write::Accumulate);
        }
    });
}

}  // namespace fedllm::kernels
#endif
