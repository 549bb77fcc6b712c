#include "common/codec/deadzone_kernels.hpp"

namespace fedllm::codec::deadzone::plain {

double sum_of_squares(std::span<const float> block) {
    std::array<double, rans::kLanes> lanes{};
    for (std::size_t i = 0; i < block.size(); ++i) {
        const auto value = static_cast<double>(block[i]);
        lanes[i % rans::kLanes] += value * value;
    }
    for (std::size_t apart = rans::kLanes / 2; apart > 0; apart /= 2) {
        for (std::size_t i = 0; i < apart; ++i) lanes[i] += lanes[i + apart];
    }
    return lanes[0];
}

void quantize(std::span<const float> values, float inverse_step, std::int8_t* levels,
              Statistics& statistics) {
    for (std::size_t i = 0; i < values.size(); ++i) {
        const int level = level_of(values[i], inverse_step);
        const int magnitude = std::abs(level);
        levels[i] = static_cast<std::int8_t>(level);
        ++statistics.counts[static_cast<std::size_t>(magnitude)];
        if (magnitude > 0) {
            statistics.offset_sums[offset_class(magnitude)] += offset_of(values[i], inverse_step, magnitude);
        }
    }
}

std::uint16_t* encode_run(std::span<const std::int8_t> levels, const EncodeTable& table, States& states,
                          std::uint16_t* top) {
    for (std::size_t i = levels.size(); i-- > 0;) {
        const auto index = static_cast<std::size_t>(levels[i] + kLevelBias);
        const rans::Symbol symbol{table.range[index] & 0xFFFF, table.range[index] >> 16,
                                  table.reciprocal[index]};
        std::uint32_t& state = states[i % rans::kLanes];
        if (rans::must_emit(state, symbol.frequency)) {
            *--top = static_cast<std::uint16_t>(state & 0xFFFF);
            state >>= rans::kWordBits;
        }
        state = rans::put(state, symbol);
    }
    return top;
}

bool decode_run(const DecodeTable& table, States& states, const std::uint16_t*& at, const std::uint16_t* end,
                std::span<float> values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
        std::uint32_t& state = states[i % rans::kLanes];
        const std::uint32_t entry = table.slots[rans::slot_of(state)];
        values[i] = table.values[rans::number_of(entry)];
        state = rans::take(state, entry);
        if (state < rans::kStateMin) {
            if (at == end) return false;
            state = state << rans::kWordBits | *at++;
        }
    }
    return true;
}

}  // namespace fedllm::codec::deadzone::plain
