// Vector helpers of the CPU bodies. Included once per instruction set: see Highway's foreach_target.h, which
// is also the reason for the unusual guard.
#if defined(FEDLLM_KERNELS_DEVICE_SIMD_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FEDLLM_KERNELS_DEVICE_SIMD_INL
#undef FEDLLM_KERNELS_DEVICE_SIMD_INL
#else
#define FEDLLM_KERNELS_DEVICE_SIMD_INL
#endif

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "common/tensor/dtype.hpp"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Vector = hn::Vec<Floats>;

// The first `count` lanes, zeros behind them; never touches memory past p + count.
HWY_INLINE Vector load_n(Floats d, const float* p, std::size_t count) {
    if (count >= hn::Lanes(d)) return hn::LoadU(d, p);
#if HWY_MEM_OPS_MIGHT_FAULT
    HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)] = {};
    std::memcpy(lanes, p, count * sizeof(float));
    return hn::Load(d, lanes);
#else
    return hn::MaskedLoad(hn::FirstN(d, count), d, p);
#endif
}

// Writes the first `count` lanes; the neighbours may belong to another thread and stay untouched.
HWY_INLINE void store_n(Floats d, Vector v, float* p, std::size_t count) {
    if (count >= hn::Lanes(d)) return hn::StoreU(v, d, p);
#if HWY_MEM_OPS_MIGHT_FAULT
    HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)];
    hn::Store(v, d, lanes);
    std::memcpy(p, lanes, count * sizeof(float));
#else
    hn::BlendedStore(v, hn::FirstN(d, count), d, p);
#endif
}

HWY_INLINE float sum_of(Floats d, Vector v) { return hn::GetLane(hn::SumOfLanes(d, v)); }

// exp to about 1 ulp (Highway's polynomial) with the edges made total: NaN stays NaN, overflow is infinity.
HWY_INLINE Vector exp_of(Floats d, Vector x) {
    const Vector bounded = hn::Min(x, hn::Set(d, 104.0f));
    return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, bounded));
}

HWY_INLINE Vector sigmoid_of(Floats d, Vector x) {
    const Vector one = hn::Set(d, 1.0f);
    return hn::Div(one, hn::Add(one, exp_of(d, hn::Neg(x))));
}

// bf16 to f32 is a shift.
HWY_INLINE void widen_bf16(const std::uint16_t* from, float* to, std::size_t count) {
    const Floats d;
    const hn::RebindToUnsigned<Floats> du;
    const hn::Rebind<std::uint16_t, Floats> dh;
    std::size_t i = 0;
    for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
        const auto bits = hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(dh, from + i)));
        hn::StoreU(hn::BitCast(d, bits), d, to + i);
    }
    for (; i < count; ++i) to[i] = tensor::bf16_to_f32(from[i]);
}

}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#endif
