#include "common/codec/deadzone_kernels.hpp"

#include <bit>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/codec/deadzone_kernels.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"

#ifndef FEDLLM_CODEC_LANE_ORDERS
#define FEDLLM_CODEC_LANE_ORDERS
namespace fedllm::codec::deadzone {
namespace {

// For each set of 8 lanes: which word a lane takes (spread), and which lane's word goes where, the last ones
// at the top (gather).
struct LaneOrders {
    alignas(64) std::array<std::array<std::uint8_t, 8>, 256> spread{};
    alignas(64) std::array<std::array<std::uint8_t, 8>, 256> gather{};
};
constexpr LaneOrders make_lane_orders() {
    LaneOrders orders;
    for (unsigned set = 0; set < 256; ++set) {
        const auto count = static_cast<unsigned>(std::popcount(set));
        unsigned rank = 0;
        for (unsigned lane = 0; lane < 8; ++lane) {
            if ((set >> lane & 1u) == 0) continue;
            orders.spread[set][lane] = static_cast<std::uint8_t>(rank);
            orders.gather[set][8 - count + rank] = static_cast<std::uint8_t>(lane);
            ++rank;
        }
    }
    return orders;
}
constexpr LaneOrders kLaneOrders = make_lane_orders();

}  // namespace
}  // namespace fedllm::codec::deadzone
#endif

HWY_BEFORE_NAMESPACE();
namespace fedllm::codec::deadzone {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

double SumOfSquares(const float* values, std::size_t count) {
    const hn::CappedTag<double, 8> d;
    const hn::Rebind<float, decltype(d)> df;
    const std::size_t lanes = hn::Lanes(d);
    const std::size_t whole = count / rans::kLanes * rans::kLanes;
    HWY_ALIGN double sums[rans::kLanes] = {};
    for (std::size_t lane = 0; lane < rans::kLanes; lane += 2 * lanes) {
        auto low = hn::Zero(d), high = hn::Zero(d);
        for (std::size_t i = lane; i < whole; i += rans::kLanes) {
            const auto a = hn::PromoteTo(d, hn::LoadU(df, values + i));
            const auto b = hn::PromoteTo(d, hn::LoadU(df, values + i + lanes));
            low = hn::Add(low, hn::Mul(a, a));
            high = hn::Add(high, hn::Mul(b, b));
        }
        hn::Store(low, d, sums + lane);
        hn::Store(high, d, sums + lane + lanes);
    }
    for (std::size_t i = whole; i < count; ++i) {
        const auto value = static_cast<double>(values[i]);
        sums[i % rans::kLanes] += value * value;
    }
    for (std::size_t apart = rans::kLanes / 2; apart > 0; apart /= 2) {
        for (std::size_t i = 0; i < apart; ++i) sums[i] += sums[i + apart];
    }
    return sums[0];
}

// Whole vectors only; returns how many values it took. At most 2^16 values: the sums are of 32 bits.
std::size_t Quantize(const float* values, std::size_t count, float inverse_step, std::int8_t* levels,
                     std::int64_t* offset_sums) {
    const hn::ScalableTag<float> d;
    const hn::RebindToSigned<decltype(d)> di;
    const hn::Rebind<std::int8_t, decltype(d)> d8;
    const auto inverse = hn::Set(d, inverse_step), threshold = hn::Set(d, kThreshold),
               half = hn::Set(d, 0.5f);
    const auto level_max = hn::Set(d, static_cast<float>(kLevelMax));
    const auto per_step = hn::Set(d, static_cast<float>(kOffsetsPerStep));
    const auto lowest = hn::Set(d, -128.0f), highest = hn::Set(d, 127.0f);
    auto sum1 = hn::Zero(di), sum2 = sum1, sum3 = sum1, sum4 = sum1;
    std::size_t i = 0;
    for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
        const auto value = hn::LoadU(d, values + i);
        const auto steps = hn::Mul(hn::Abs(value), inverse);
        const auto rounded = hn::ConvertTo(di, hn::Min(hn::Add(steps, half), level_max));
        const auto magnitude = hn::IfThenElseZero(hn::RebindMask(di, hn::Ge(steps, threshold)), rounded);
        const auto sign = hn::BroadcastSignBit(hn::BitCast(di, value));
        hn::StoreU(hn::DemoteTo(d8, hn::Sub(hn::Xor(magnitude, sign), sign)), d8, levels + i);
        const auto away = hn::Mul(hn::Sub(steps, hn::ConvertTo(d, magnitude)), per_step);
        const auto offset = hn::NearestInt(hn::Max(lowest, hn::Min(away, highest)));
        sum1 = hn::Add(sum1, hn::IfThenElseZero(hn::Eq(magnitude, hn::Set(di, 1)), offset));
        sum2 = hn::Add(sum2, hn::IfThenElseZero(hn::Eq(magnitude, hn::Set(di, 2)), offset));
        sum3 = hn::Add(sum3, hn::IfThenElseZero(hn::Eq(magnitude, hn::Set(di, 3)), offset));
        sum4 = hn::Add(sum4, hn::IfThenElseZero(hn::Gt(magnitude, hn::Set(di, 3)), offset));
    }
    offset_sums[0] += hn::GetLane(hn::SumOfLanes(di, sum1));
    offset_sums[1] += hn::GetLane(hn::SumOfLanes(di, sum2));
    offset_sums[2] += hn::GetLane(hn::SumOfLanes(di, sum3));
    offset_sums[3] += hn::GetLane(hn::SumOfLanes(di, sum4));
    return i;
}

// Four vectors of eight lanes: what AVX2 has, and as fast as sixteen lanes where a processor splits those in
// two.
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
using Lanes = hn::CappedTag<std::uint32_t, 8>;
using Lane8 = hn::Vec<Lanes>;
using Mask8 = hn::Mask<Lanes>;
constexpr std::size_t kVectors = rans::kLanes / 8;

HWY_INLINE unsigned bits_of(Mask8 mask) {
    std::uint8_t bits[8] = {};
    hn::StoreMaskBits(Lanes(), mask, bits);
    return bits[0];
}
HWY_INLINE Lane8 permuted(Lane8 words, const std::array<std::uint8_t, 8>& order) {
    const Lanes d;
    const hn::Rebind<std::uint8_t, Lanes> d8;
    return hn::TableLookupLanes(words, hn::IndicesFromVec(d, hn::PromoteTo(d, hn::LoadU(d8, order.data()))));
}
HWY_INLINE Lane8 high_product(Lane8 a, Lane8 b) {
    const Lanes d;
    const hn::RepartitionToWide<Lanes> d64;
    const auto even = hn::BitCast(d, hn::ShiftRight<32>(hn::MulEven(a, b)));
    const auto odd = hn::MulEven(hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(d64, a))),
                                 hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(d64, b))));
    return hn::OddEven(hn::BitCast(d, odd), even);
}
HWY_INLINE hn::VFromD<hn::RebindToSigned<Lanes>> as_signed(Lane8 v) {
    return hn::BitCast(hn::RebindToSigned<Lanes>(), v);
}

HWY_INLINE Lane8 EncodeEight(Lane8 state, const std::int8_t* levels, const EncodeTable& table,
                             std::uint16_t*& top) {
    const Lanes d;
    const hn::RebindToSigned<Lanes> di;
    const hn::Rebind<std::int8_t, Lanes> d8;
    const hn::Rebind<std::uint16_t, Lanes> d16;
    const auto index = hn::PromoteTo(di, hn::LoadU(d8, levels));
    const Lane8 range = hn::GatherIndex(d, table.range.data() + kLevelBias, index);
    const Lane8 reciprocal = hn::GatherIndex(d, table.reciprocal.data() + kLevelBias, index);
    const Lane8 frequency = hn::And(range, hn::Set(d, 0xFFFF));
    const Lane8 start = hn::ShiftRight<16>(range);
    // rans::must_emit; both sides are far below 2^31, so signed comparison will do.
    const Mask8 emits = hn::RebindMask(
        d,
        hn::Not(hn::Lt(as_signed(hn::ShiftRight<32 - rans::kProbabilityBits>(state)), as_signed(frequency))));
    const unsigned set = bits_of(emits);
    const Lane8 words = permuted(hn::And(state, hn::Set(d, 0xFFFF)), kLaneOrders.gather[set]);
    hn::StoreU(hn::DemoteTo(d16, as_signed(words)), d16, top - 8);
    top -= std::popcount(set);
    state = hn::IfThenElse(emits, hn::ShiftRight<rans::kWordBits>(state), state);
    // rans::put.
    Lane8 quotient = high_product(state, reciprocal);
    Lane8 rest = hn::Sub(state, hn::Mul(quotient, frequency));
    const Mask8 one_less = hn::RebindMask(d, hn::Not(hn::Lt(as_signed(rest), as_signed(frequency))));
    quotient = hn::IfThenElse(one_less, hn::Add(quotient, hn::Set(d, 1)), quotient);
    rest = hn::IfThenElse(one_less, hn::Sub(rest, frequency), rest);
    return hn::Add(hn::ShiftLeft<rans::kProbabilityBits>(quotient), hn::Add(start, rest));
}

std::uint16_t* EncodeRows(const std::int8_t* levels, std::size_t rows, const EncodeTable& table,
                          States& states, std::uint16_t* top) {
    const Lanes d;
    Lane8 a = hn::LoadU(d, states.data()), b = hn::LoadU(d, states.data() + 8);
    Lane8 c = hn::LoadU(d, states.data() + 16), e = hn::LoadU(d, states.data() + 24);
    for (std::size_t row = rows; row-- > 0;) {
        const std::int8_t* const at = levels + row * rans::kLanes;
        e = EncodeEight(e, at + 24, table, top);
        c = EncodeEight(c, at + 16, table, top);
        b = EncodeEight(b, at + 8, table, top);
        a = EncodeEight(a, at, table, top);
    }
    hn::StoreU(a, d, states.data());
    hn::StoreU(b, d, states.data() + 8);
    hn::StoreU(c, d, states.data() + 16);
    hn::StoreU(e, d, states.data() + 24);
    return top;
}

HWY_INLINE Lane8 DecodeEight(Lane8 state, const DecodeTable& table, const std::uint16_t*& at, float* values) {
    const Lanes d;
    const hn::RebindToFloat<Lanes> df;
    const hn::Rebind<std::uint16_t, Lanes> d16;
    const Lane8 slot = hn::And(state, hn::Set(d, rans::kTotal - 1));
    const Lane8 entry = hn::GatherIndex(d, table.slots.data(), as_signed(slot));
    hn::StoreU(hn::GatherIndex(df, table.values.data(), as_signed(hn::ShiftRight<24>(entry))), df, values);
    const Lane8 frequency = hn::And(entry, hn::Set(d, 0xFFF));
    const Lane8 in_range = hn::And(hn::ShiftRight<12>(entry), hn::Set(d, 0xFFF));
    state = hn::Add(hn::Mul(frequency, hn::ShiftRight<rans::kProbabilityBits>(state)), in_range);
    const Mask8 short_of = hn::Eq(hn::ShiftRight<rans::kWordBits>(state), hn::Zero(d));
    const unsigned set = bits_of(short_of);
    const Lane8 words = permuted(hn::PromoteTo(d, hn::LoadU(d16, at)), kLaneOrders.spread[set]);
    at += std::popcount(set);
    return hn::IfThenElse(short_of, hn::Or(hn::ShiftLeft<rans::kWordBits>(state), words), state);
}

// Stops where fewer words are left than a row may take and its loads may touch; returns the rows done.
std::size_t DecodeRows(const DecodeTable& table, States& states, const std::uint16_t*& at,
                       const std::uint16_t* end, float* values, std::size_t rows) {
    const Lanes d;
    Lane8 a = hn::LoadU(d, states.data()), b = hn::LoadU(d, states.data() + 8);
    Lane8 c = hn::LoadU(d, states.data() + 16), e = hn::LoadU(d, states.data() + 24);
    const std::uint16_t* next = at;
    std::size_t row = 0;
    for (; row < rows && end - next >= static_cast<std::ptrdiff_t>(rans::kLanes + 8); ++row) {
        float* const out = values + row * rans::kLanes;
        a = DecodeEight(a, table, next, out);
        b = DecodeEight(b, table, next, out + 8);
        c = DecodeEight(c, table, next, out + 16);
        e = DecodeEight(e, table, next, out + 24);
    }
    at = next;
    hn::StoreU(a, d, states.data());
    hn::StoreU(b, d, states.data() + 8);
    hn::StoreU(c, d, states.data() + 16);
    hn::StoreU(e, d, states.data() + 24);
    return row;
}
#else
std::uint16_t* EncodeRows(const std::int8_t* levels, std::size_t rows, const EncodeTable& table,
                          States& states, std::uint16_t* top) {
    return plain::encode_run({levels, rows * rans::kLanes}, table, states, top);
}
std::size_t DecodeRows(const DecodeTable&, States&, const std::uint16_t*&, const std::uint16_t*, float*,
                       std::size_t) {
    return 0;
}
#endif

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::codec::deadzone
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::codec::deadzone {
namespace {

HWY_EXPORT(SumOfSquares);
HWY_EXPORT(Quantize);
HWY_EXPORT(EncodeRows);
HWY_EXPORT(DecodeRows);

// Several counters for each level: equal neighbours need not wait for each other.
void count_levels(std::span<const std::int8_t> levels, Statistics& statistics) {
    constexpr std::size_t kWays = 8;
    std::array<std::array<std::uint32_t, 256>, kWays> counts{};
    const std::size_t whole = levels.size() / kWays * kWays;
    for (std::size_t i = 0; i < whole; i += kWays) {
        std::uint64_t eight = 0;
        std::memcpy(&eight, levels.data() + i, kWays);
        for (std::size_t way = 0; way < kWays; ++way) ++counts[way][(eight >> (8 * way)) & 0xFF];
    }
    for (std::size_t i = whole; i < levels.size(); ++i) ++counts[0][static_cast<std::uint8_t>(levels[i])];
    for (int level = -kLevelMax; level <= kLevelMax; ++level) {
        auto& total = statistics.counts[static_cast<std::size_t>(std::abs(level))];
        for (const auto& way : counts) total += way[static_cast<std::uint8_t>(level)];
    }
}

}  // namespace

double sum_of_squares(std::span<const float> block) {
    return HWY_DYNAMIC_DISPATCH(SumOfSquares)(block.data(), block.size());
}

void quantize(std::span<const float> values, float inverse_step, std::int8_t* levels,
              Statistics& statistics) {
    constexpr std::size_t kSumsHold = std::size_t{1} << 16;
    std::size_t done = 0;
    while (done < values.size()) {
        const std::size_t count = std::min(kSumsHold, values.size() - done);
        const std::size_t taken = HWY_DYNAMIC_DISPATCH(Quantize)(
            values.data() + done, count, inverse_step, levels + done, statistics.offset_sums.data());
        count_levels({levels + done, taken}, statistics);
        plain::quantize(values.subspan(done + taken, count - taken), inverse_step, levels + done + taken,
                        statistics);
        done += count;
    }
}

std::uint16_t* encode_run(std::span<const std::int8_t> levels, const EncodeTable& table, States& states,
                          std::uint16_t* top) {
    const std::size_t rows = levels.size() / rans::kLanes;
    top = plain::encode_run(levels.subspan(rows * rans::kLanes), table, states, top);
    return HWY_DYNAMIC_DISPATCH(EncodeRows)(levels.data(), rows, table, states, top);
}

bool decode_run(const DecodeTable& table, States& states, const std::uint16_t*& at, const std::uint16_t* end,
                std::span<float> values) {
    const std::size_t rows = values.size() / rans::kLanes;
    const std::size_t done =
        HWY_DYNAMIC_DISPATCH(DecodeRows)(table, states, at, end, values.data(), rows) * rans::kLanes;
    return plain::decode_run(table, states, at, end, values.subspan(done));
}

}  // namespace fedllm::codec::deadzone
#endif
