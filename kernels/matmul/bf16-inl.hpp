// Operands rounded to bf16 (to nearest, ties to even; NaN stays NaN) while they are packed: forms for
// kernels/device/gemm_tile-inl.hpp. Included once per instruction set.
#if defined(FEDLLM_KERNELS_MATMUL_BF16_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FEDLLM_KERNELS_MATMUL_BF16_INL
#undef FEDLLM_KERNELS_MATMUL_BF16_INL
#else
#define FEDLLM_KERNELS_MATMUL_BF16_INL
#endif

#include <bit>
#include <cstddef>
#include <cstdint>

#include "common/tensor/dtype.hpp"
#include "kernels/device/gemm_tile-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {

using Words = hn::RebindToUnsigned<Floats>;

// The value's bf16 in the upper half of its lane; the lower half is what rounding left over.
HWY_INLINE hn::Vec<Words> bf16_above(Vector value) {
    const Words du;
    const auto bits = hn::BitCast(du, value);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
    const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu)));
    const auto quiet = hn::Or(bits, hn::Set(du, 0x400000u));
    return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(value)), quiet, rounded);
}

// A word is one step, a float of bf16's precision: for the tile in f32, anywhere.
class RoundedFloats {
public:
    using Element = float;
    static constexpr std::size_t kSteps = 1;
    explicit RoundedFloats(float scale) : whole_(scale) {}

    HWY_INLINE Vector along(const float* p) const { return rounded(whole_.along(p)); }
    HWY_INLINE float one(const float* p, std::size_t left) const {
        return tensor::bf16_to_f32(tensor::f32_to_bf16(whole_.one(p, left)));
    }
    HWY_INLINE Vector across(const float* p, std::size_t stride, std::size_t left, std::size_t count) const {
        return rounded(whole_.across(p, stride, left, count));
    }

private:
    static HWY_INLINE Vector rounded(Vector value) {
        return hn::BitCast(Floats(), hn::And(bf16_above(value), hn::Set(Words(), 0xFFFF0000u)));
    }
    WholeFloats whole_;
};

#if HWY_ARCH_X86 && HWY_MAX_BYTES == 64
// A word is two steps, the first in its lower half: what vdpbf16ps multiplies and adds. A step that is
// missing at the end is zero.
class Bf16Pairs {
public:
    using Element = float;
    static constexpr std::size_t kSteps = 2;
    explicit Bf16Pairs(float scale) : whole_(scale) {}

    HWY_INLINE Vector along(const float* p) const {
        const Words du;
        const auto low = bf16_above(whole_.along(p)), high = bf16_above(whole_.along(p + kLanes));
        return together(hn::ConcatEven(du, high, low), hn::ConcatOdd(du, high, low));
    }
    HWY_INLINE float one(const float* p, std::size_t left) const {
        const std::uint32_t first = tensor::f32_to_bf16(whole_.one(p, left));
        const std::uint32_t second = left > 1 ? tensor::f32_to_bf16(whole_.one(p + 1, left)) : 0u;
        return std::bit_cast<float>(second << 16 | first);
    }
    HWY_INLINE Vector across(const float* p, std::size_t stride, std::size_t left, std::size_t count) const {
        const auto first = bf16_above(whole_.across(p, stride, left, count));
        if (left == 1) return together(first, hn::Zero(Words()));
        return together(first, bf16_above(whole_.across(p + stride, stride, left, count)));
    }

private:
    static HWY_INLINE Vector together(hn::Vec<Words> first, hn::Vec<Words> second) {
        const auto upper = hn::And(second, hn::Set(Words(), 0xFFFF0000u));
        return hn::BitCast(Floats(), hn::Or(hn::ShiftRight<16>(first), upper));
    }
    WholeFloats whole_;
};

// The same words, of a weight that is stored in bf16: nothing to round.
class StoredBf16Pairs {
public:
    using Element = std::uint16_t;
    static constexpr std::size_t kSteps = 2;
    explicit StoredBf16Pairs(float) {}

    HWY_INLINE Vector along(const Element* p) const {
        return hn::BitCast(Floats(), hn::LoadU(hn::Repartition<Element, Floats>(), p));
    }
    HWY_INLINE float one(const Element* p, std::size_t left) const {
        return std::bit_cast<float>((left > 1 ? std::uint32_t{p[1]} << 16 : 0u) | p[0]);
    }
    HWY_INLINE Vector across(const Element* p, std::size_t stride, std::size_t left,
                             std::size_t count) const {
        const auto first = step(p, count);
        if (left == 1) return hn::BitCast(Floats(), first);
        return hn::BitCast(Floats(), hn::Or(first, hn::ShiftLeft<16>(step(p + stride, count))));
    }

private:
    static HWY_INLINE hn::Vec<Words> step(const Element* p, std::size_t count) {
        const hn::Rebind<Element, Floats> d;
        return hn::PromoteTo(Words(), hn::MaskedLoad(hn::FirstN(d, count), d, p));
    }
};
#endif

}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#endif
