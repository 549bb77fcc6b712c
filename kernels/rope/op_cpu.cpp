#include "kernels/rope/op.hpp"

#include <cmath>

#include "common/base/result.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rope/op_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {
namespace {

// (a, b) becomes (a cos - b sin, b cos + a sin); sign -1 turns back.
void TurnRow(float* row, std::size_t heads, std::size_t half, const float* cosine, const float* sine,
             float sign) {
    const Floats d;
    const Vector direction = hn::Set(d, sign);
    for (std::size_t h = 0; h < heads; ++h) {
        float* first = row + h * 2 * half;
        float* second = first + half;
        for (std::size_t j = 0; j < half; j += hn::Lanes(d)) {
            const std::size_t left = half - j;
            const Vector a = load_n(d, first + j, left);
            const Vector b = load_n(d, second + j, left);
            const Vector c = load_n(d, cosine + j, left);
            const Vector s = hn::Mul(load_n(d, sine + j, left), direction);
            store_n(d, hn::NegMulAdd(b, s, hn::Mul(a, c)), first + j, left);
            store_n(d, hn::MulAdd(a, s, hn::Mul(b, c)), second + j, left);
        }
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::kernels {
namespace {

HWY_EXPORT(TurnRow);

}  // namespace

void rope(ThreadPool& pool, Matrix x, std::size_t heads, std::size_t head_size, const std::int32_t* positions,
          const float* cosine, const float* sine, Turn turn) {
    FEDLLM_CHECK(x.cols == heads * head_size && head_size % 2 == 0, "rope: x is (M, heads*D) with even D");
    const std::size_t half = head_size / 2;
    const float sign = turn == Turn::Forward ? 1.0f : -1.0f;
    pool.parallel_for(x.rows, [&](std::size_t m) {
        const std::size_t at = static_cast<std::size_t>(positions[m]) * half;
        HWY_DYNAMIC_DISPATCH(TurnRow)(x.row(m), heads, half, cosine + at, sine + at, sign);
    });
}

}  // namespace fedllm::kernels
#endif
