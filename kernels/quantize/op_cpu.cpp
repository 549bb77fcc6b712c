#include "kernels/quantize/op.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/result.hpp"
#include "common/tensor/dtype.hpp"
#include "kernels/quantize/code_books.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/quantize/op_cpu.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "kernels/device/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace fedllm::kernels {
namespace HWY_NAMESPACE {
namespace {

void WidenBf16(const std::uint16_t* from, float* to, std::size_t count) { widen_bf16(from, to, count); }

// The largest |v|. Compared as integers, infinities are larger than numbers and NaNs larger than both.
float AbsMax(const float* values, std::size_t count) {
    const Floats d;
    const hn::RebindToUnsigned<Floats> du;
    const std::size_t lanes = hn::Lanes(d);
    const auto mask = hn::Set(du, 0x7FFFFFFFu);
    auto most = hn::Zero(du);
    for (std::size_t i = 0; i < count; i += lanes) {
        const auto bits = hn::BitCast(du, load_n(d, values + i, count - i));
        most = hn::Max(most, hn::And(bits, mask));
    }
    HWY_ALIGN std::uint32_t each[HWY_MAX_BYTES / sizeof(std::uint32_t)];
    hn::Store(most, du, each);
    const std::uint32_t bits = *std::max_element(each, each + lanes);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// ranks[i] = how many thresholds are below value i, scaled. Whole vectors only: both sides are padded.
template <bool kDivide>
void RankAll(const float* values, std::size_t count, float factor, const float* thresholds,
             std::uint8_t* ranks) {
    const Floats d;
    const hn::RebindToSigned<Floats> di;
    const hn::Rebind<std::uint8_t, Floats> d8;
    const std::size_t lanes = hn::Lanes(d);
    for (std::size_t i = 0; i < count; i += lanes) {
        const Vector value = load_n(d, values + i, count - i);
        const Vector scaled =
            kDivide ? hn::Div(value, hn::Set(d, factor)) : hn::Mul(value, hn::Set(d, factor));
        auto rank = hn::Zero(di);
        for (std::size_t t = 0; t + 1 < kFourBitCodes; ++t) {
            const auto above = hn::RebindMask(di, hn::Lt(hn::Set(d, thresholds[t]), scaled));
            rank = hn::Sub(rank, hn::VecFromMask(di, above));
        }
        hn::StoreU(hn::DemoteTo(d8, rank), d8, ranks + i);
    }
}

void Rank(const float* values, std::size_t count, float factor, bool divide, const float* thresholds,
          std::uint8_t* ranks) {
    divide ? RankAll<true>(values, count, factor, thresholds, ranks)
           : RankAll<false>(values, count, factor, thresholds, ranks);
}

void RoundToInt8(const float* values, std::size_t count, float factor, std::int8_t* codes) {
    const Floats d;
    const hn::Rebind<std::int8_t, Floats> d8;
    const std::size_t lanes = hn::Lanes(d);
    HWY_ALIGN std::int8_t last[HWY_MAX_BYTES];
    for (std::size_t i = 0; i < count; i += lanes) {
        const Vector scaled = hn::Mul(load_n(d, values + i, count - i), hn::Set(d, factor));
        const auto rounded = hn::DemoteTo(d8, hn::NearestInt(scaled));
        if (i + lanes <= count) {
            hn::StoreU(rounded, d8, codes + i);
        } else {
            hn::StoreU(rounded, d8, last);
            std::memcpy(codes + i, last, count - i);
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

HWY_EXPORT(WidenBf16);
HWY_EXPORT(AbsMax);
HWY_EXPORT(Rank);
HWY_EXPORT(RoundToInt8);

constexpr std::size_t kElementsPerItem = 4 * kFourBitBlockMax;  // a multiple of every block size
constexpr std::size_t kPadding = 64;  // lanes that RankAll may write beyond its count
constexpr float kScaleMin = 1e-38f;   // bitsandbytes' guard against 1 / 0

struct CodeBook {
    const std::array<float, kFourBitCodes>& values;
    const std::array<float, kFourBitCodes - 1>& thresholds;
    const std::array<std::uint8_t, kFourBitCodes>& order;
};

CodeBook book_of(WeightType type) {
    FEDLLM_CHECK(type == WeightType::NF4 || type == WeightType::FP4, "a type of four bits");
    if (type == WeightType::NF4) return {kNf4Values, kNf4Thresholds, kNf4Order};
    return {kFp4Values, kFp4Thresholds, kFp4Order};
}

// Elements [first, first + count) as f32: where they are, or widened into `room`.
const float* floats_of(WeightView view, std::size_t first, std::size_t count, std::span<float> room) {
    if (view.type == WeightType::F32) return static_cast<const float*>(view.data) + first;
    HWY_DYNAMIC_DISPATCH(WidenBf16)(static_cast<const std::uint16_t*>(view.data) + first, room.data(), count);
    return room.data();
}

// One block of an even first element; a code without a partner gets that of 0 beside it.
float encode_block(const float* values, std::size_t count, bool last_and_short, const CodeBook& book,
                   std::uint8_t* codes) {
    float scale = HWY_DYNAMIC_DISPATCH(AbsMax)(values, count);
    const float least = std::max(scale, kScaleMin);
    if (last_and_short) scale = least;
    std::uint8_t ranks[kFourBitBlockMax + kPadding];
    HWY_DYNAMIC_DISPATCH(Rank)
    (values, count, last_and_short ? least : 1.0f / least, last_and_short, book.thresholds.data(), ranks);
    if (count % 2 != 0) {
        constexpr float kZero = 0.0f;
        HWY_DYNAMIC_DISPATCH(Rank)(&kZero, 1, 1.0f, false, book.thresholds.data(), ranks + count);
    }
    for (std::size_t i = 0; i < count; i += 2) {
        codes[i / 2] = static_cast<std::uint8_t>(book.order[ranks[i]] << 4 | book.order[ranks[i + 1]]);
    }
    return scale;
}

void decode_four_bit(WeightView from, std::size_t first, std::size_t count, float* values) {
    const auto& book = book_of(from.type).values;
    const auto* codes = static_cast<const std::uint8_t*>(from.data);
    float scaled[kFourBitCodes] = {};
    for (std::size_t i = first; i < first + count; ++i) {
        if (i % from.block == 0) {  // `first` starts a block
            const float scale = from.scales[i / from.block];
            for (std::size_t c = 0; c < kFourBitCodes; ++c) scaled[c] = book[c] * scale;
        }
        const unsigned pair = codes[i / 2];
        values[i - first] = scaled[i % 2 == 0 ? pair >> 4 : pair & 15u];
    }
}

}  // namespace

void quantize_four_bit(ThreadPool& pool, WeightView from, WeightType to, std::size_t block,
                       std::span<std::uint8_t> codes, std::span<float> scales) {
    const std::size_t elements = from.rows * from.cols;
    FEDLLM_CHECK(from.type == WeightType::F32 || from.type == WeightType::BF16,
                 "quantize_four_bit: from f32 or bf16");
    FEDLLM_CHECK(is_four_bit_block(block) && codes.size() == four_bit_bytes(elements) &&
                     scales.size() == blocks_of(elements, block),
                 "quantize_four_bit: sizes differ");
    const CodeBook book = book_of(to);
    pool.parallel_for(blocks_of(elements, kElementsPerItem), [&](std::size_t item) {
        const std::size_t end = std::min(elements, (item + 1) * kElementsPerItem);
        for (std::size_t i = item * kElementsPerItem; i < end; i += block) {
            const std::size_t count = std::min(block, end - i);
            const float* values = floats_of(from, i, count, ThreadPool::thread_scratch());
            scales[i / block] = encode_block(values, count, count < block, book, codes.data() + i / 2);
        }
    });
}

void quantize_int8(ThreadPool& pool, WeightView from, std::span<std::int8_t> codes, std::span<float> absmax) {
    FEDLLM_CHECK(from.type == WeightType::F32 || from.type == WeightType::BF16,
                 "quantize_int8: from f32 or bf16");
    FEDLLM_CHECK(codes.size() == from.rows * from.cols && absmax.size() == from.rows &&
                     from.cols <= ThreadPool::kThreadScratchFloats,
                 "quantize_int8: sizes differ");
    pool.parallel_for(from.rows, [&](std::size_t row) {
        const std::size_t first = row * from.cols;
        const float* values = floats_of(from, first, from.cols, ThreadPool::thread_scratch());
        absmax[row] = HWY_DYNAMIC_DISPATCH(AbsMax)(values, from.cols);
        // PyTorch divides a number by a tensor like this. Below 3e-39 all codes are 0.
        const float factor = (1.0f / absmax[row]) * 127.0f;
        HWY_DYNAMIC_DISPATCH(RoundToInt8)
        (values, from.cols, std::isfinite(factor) ? factor : 0.0f, codes.data() + first);
    });
}

void dequantize(ThreadPool& pool, WeightView from, std::span<float> values) {
    const std::size_t elements = from.rows * from.cols;
    FEDLLM_CHECK(values.size() == elements, "dequantize: sizes differ");
    FEDLLM_CHECK(from.type == WeightType::F32 || from.type == WeightType::BF16 || from.scales != nullptr,
                 "dequantize: no scales");
    pool.parallel_for(blocks_of(elements, kElementsPerItem), [&](std::size_t item) {
        const std::size_t first = item * kElementsPerItem;
        const std::size_t count = std::min(kElementsPerItem, elements - first);
        float* const to = values.data() + first;
        switch (from.type) {
            case WeightType::F32:
            case WeightType::BF16: {
                const float* floats = floats_of(from, first, count, {to, count});
                if (floats != to) std::copy_n(floats, count, to);
                return;
            }
            case WeightType::Int8: {
                const auto* codes = static_cast<const std::int8_t*>(from.data) + first;
                for (std::size_t i = 0; i < count; ++i) {
                    to[i] = static_cast<float>(codes[i]) * from.scales[(first + i) / from.cols];
                }
                return;
            }
            case WeightType::NF4:
            case WeightType::FP4: return decode_four_bit(from, first, count, to);
        }
    });
}

void dequantize_int8(std::span<const std::int8_t> codes, std::span<const float> absmax,
                     std::span<float> values) {
    FEDLLM_CHECK(!absmax.empty() && codes.size() % absmax.size() == 0 && values.size() == codes.size(),
                 "dequantize_int8: sizes differ");
    const std::size_t cols = codes.size() / absmax.size();
    for (std::size_t i = 0; i < codes.size(); ++i) {
        values[i] = static_cast<float>(codes[i]) * absmax[i / cols] * kInt8Step;
    }
}

void decode_scales(std::span<const std::uint8_t> codes, std::span<const float> nested,
                   std::span<const float, 256> map, float offset, std::span<float> scales) {
    FEDLLM_CHECK(scales.size() == codes.size() && nested.size() == blocks_of(codes.size(), kNestedBlock),
                 "decode_scales: sizes differ");
    for (std::size_t i = 0; i < codes.size(); ++i) {
        scales[i] = map[codes[i]] * nested[i / kNestedBlock] + offset;
    }
}

float mean_scale(std::span<const float> scales) {
    double sum = 0;
    for (const float scale : scales) sum += scale;
    return scales.empty() ? 0.0f : static_cast<float>(sum / static_cast<double>(scales.size()));
}

void encode_scales(std::span<const float> scales, float offset, std::span<const float, 256> map,
                   std::span<std::uint8_t> codes, std::span<float> nested) {
    FEDLLM_CHECK(scales.size() == codes.size() && nested.size() == blocks_of(codes.size(), kNestedBlock),
                 "encode_scales: sizes differ");
    std::array<float, 255> thresholds;
    for (std::size_t i = 0; i < thresholds.size(); ++i) thresholds[i] = (map[i] + map[i + 1]) / 2.0f;
    for (std::size_t first = 0; first < scales.size(); first += kNestedBlock) {
        const std::size_t count = std::min(kNestedBlock, scales.size() - first);
        float most = 0.0f;
        for (std::size_t i = first; i < first + count; ++i)
            most = std::max(most, std::abs(scales[i] - offset));
        const float least = std::max(most, kScaleMin);
        nested[first / kNestedBlock] = count < kNestedBlock ? least : most;
        for (std::size_t i = first; i < first + count; ++i) {
            const float difference = scales[i] - offset;
            const float value = count < kNestedBlock ? difference / least : difference * (1.0f / least);
            codes[i] = static_cast<std::uint8_t>(
                std::lower_bound(thresholds.begin(), thresholds.end(), value) - thresholds.begin());
        }
    }
}

std::array<float, 256> dynamic_map() {
    constexpr std::size_t kDecades = 7;
    constexpr std::array<float, kDecades> kPowers{1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    std::array<float, 256> map{};
    std::size_t filled = 0;
    map[filled++] = 0.0f;
    map[filled++] = 1.0f;
    for (std::size_t decade = 0; decade < kDecades; ++decade) {
        const std::size_t steps = std::size_t{1} << decade;
        const float step = (1.0f - 0.1f) / static_cast<float>(steps);
        // An even division of [0.1, 1], counted from the nearer end.
        const auto boundary = [&](std::size_t i) {
            return i < (steps + 1) / 2 ? std::fma(step, static_cast<float>(i), 0.1f)
                                       : std::fma(-step, static_cast<float>(steps - i), 1.0f);
        };
        for (std::size_t i = 0; i < steps; ++i) {
            const float mean = (boundary(i) + boundary(i + 1)) / 2.0f;
            map[filled++] = kPowers[decade] * mean;
            map[filled++] = -(kPowers[decade] * mean);
        }
    }
    std::sort(map.begin(), map.end());
    return map;
}

}  // namespace fedllm::kernels
#endif
