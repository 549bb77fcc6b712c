// Stored weights become f32: a run of elements of one row of the matrix, whatever its type. Included once per
// instruction set.
#if defined(FEDLLM_KERNELS_MATMUL_WIDEN_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FEDLLM_KERNELS_MATMUL_WIDEN_INL
#undef FEDLLM_KERNELS_MATMUL_WIDEN_INL
#else
#define FEDLLM_KERNELS_MATMUL_WIDEN_INL
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/device/simd-inl.hpp"
#include "kernels/quantize/code_books.hpp"

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {

HWY_INLINE void widen_int8(const std::int8_t* from, float scale, float* to, std::size_t count) {
    const Floats d;
    const hn::RebindToSigned<Floats> di;
    const hn::Rebind<std::int8_t, Floats> d8;
    std::size_t i = 0;
    for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
        const Vector codes = hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, from + i)));
        hn::StoreU(hn::Mul(codes, hn::Set(d, scale)), d, to + i);
    }
    for (; i < count; ++i) to[i] = static_cast<float>(from[i]) * scale;
}

// The code book in registers: one of 16 lanes, or two of 8.
#if HWY_MAX_BYTES >= 32
inline constexpr std::size_t kBookLanes = hn::MaxLanes(Floats());
class CodeBook {
public:
    explicit CodeBook(const float* values)
        : low_(hn::LoadU(Floats(), values)),
          high_(hn::LoadU(Floats(), values + kFourBitCodes - kBookLanes)) {}

    template <class Codes>  // u32 lanes, each below 16
    HWY_INLINE Vector operator()(Codes codes) const {
        const Floats d;
        const hn::RebindToUnsigned<Floats> du;
        if constexpr (kBookLanes == kFourBitCodes) {
            return hn::TableLookupLanes(low_, hn::IndicesFromVec(d, codes));
        } else {
            const auto indices = hn::IndicesFromVec(d, hn::And(codes, hn::Set(du, 7u)));
            const auto is_high = hn::RebindMask(d, hn::Gt(codes, hn::Set(du, 7u)));
            return hn::IfThenElse(is_high, hn::TableLookupLanes(high_, indices),
                                  hn::TableLookupLanes(low_, indices));
        }
    }

private:
    Vector low_, high_;
};

// 32 elements from 16 bytes: high nibbles are the even ones.
HWY_INLINE void widen_32(const std::uint8_t* bytes, const CodeBook& book, float scale, float* to) {
    const Floats d;
    const hn::RebindToUnsigned<Floats> du;
    const hn::Full128<std::uint8_t> d8;
    const hn::Rebind<std::uint8_t, Floats> part;
    const auto packed = hn::LoadU(d8, bytes);
    const auto high = hn::And(hn::ShiftRight<4>(hn::BitCast(hn::Full128<std::uint16_t>(), packed)),
                              hn::Set(hn::Full128<std::uint16_t>(), 0x0F0F));
    const auto even = hn::BitCast(d8, high);
    const auto odd = hn::And(packed, hn::Set(d8, 0x0F));
    HWY_ALIGN std::uint8_t codes[32];
    hn::Store(hn::InterleaveLower(d8, even, odd), d8, codes);
    hn::Store(hn::InterleaveUpper(d8, even, odd), d8, codes + 16);
    for (std::size_t i = 0; i < 32; i += hn::Lanes(d)) {
        const Vector values = book(hn::PromoteTo(du, hn::Load(part, codes + i)));
        hn::StoreU(hn::Mul(values, hn::Set(d, scale)), d, to + i);
    }
}
#endif

// Elements [first, first + count) of the flattened matrix: 32 at a time share a scale, since blocks are a
// multiple of 32; what stands before and behind them goes one by one.
HWY_INLINE void widen_four_bit(const std::uint8_t* bytes, const float* values, const float* scales,
                               std::size_t block, std::size_t first, float* to, std::size_t count) {
    const auto shift = hwy::Num0BitsBelowLS1Bit_Nonzero64(block);  // a power of two
    const std::size_t end = first + count;
    const auto one = [&](std::size_t i) {
        const unsigned byte = bytes[i / 2];
        *to++ = values[i % 2 == 0 ? byte >> 4 : byte & 15u] * scales[i >> shift];
    };
    std::size_t i = first;
#if HWY_MAX_BYTES >= 32
    const CodeBook book(values);
    for (const std::size_t whole = std::min(end, (first + 31) / 32 * 32); i < whole; ++i) one(i);
    for (; i + 32 <= end; i += 32, to += 32) widen_32(bytes + i / 2, book, scales[i >> shift], to);
#endif
    for (; i < end; ++i) one(i);
}

// Columns [first, first + count) of row `row` of a matrix whose rows are `pitch` elements apart. With one
// column the run may go on through the rows below.
HWY_INLINE void widen_row(const void* data, WeightType type, const float* scales, std::size_t block,
                          std::size_t pitch, std::size_t row, std::size_t first, std::size_t count,
                          float* to) {
    const std::size_t flat = row * pitch + first;
    switch (type) {
        case WeightType::F32: return void(std::copy_n(static_cast<const float*>(data) + flat, count, to));
        case WeightType::BF16: return widen_bf16(static_cast<const std::uint16_t*>(data) + flat, to, count);
        case WeightType::Int8: {
            const auto* codes = static_cast<const std::int8_t*>(data) + flat;
            if (pitch != 1) return widen_int8(codes, scales[row], to, count);
            for (std::size_t i = 0; i < count; ++i) widen_int8(codes + i, scales[flat + i], to + i, 1);
            return;
        }
        case WeightType::NF4:
            return widen_four_bit(static_cast<const std::uint8_t*>(data), kNf4Values.data(), scales, block,
                                  flat, to, count);
        case WeightType::FP4:
            return widen_four_bit(static_cast<const std::uint8_t*>(data), kFp4Values.data(), scales, block,
                                  flat, to, count);
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace fedllm::kernels
HWY_AFTER_NAMESPACE();

#endif
