#include <bit>
#include <string>

#include "common/codec/container.hpp"
#include "common/codec/deadzone.hpp"

namespace fedllm::codec::deadzone {
namespace {

constexpr unsigned kGammaWidthMax = 11;  // of a frequency of at most 2048

int magnitudes(const Statistics& statistics) {
    int most = kLevelMax;
    while (most > 0 && statistics.counts[static_cast<std::size_t>(most)] == 0) --most;
    return most;
}

std::uint32_t pairs_total(const Table& table) {
    std::uint32_t total = 0;
    for (std::size_t m = 1; m < table.frequency.size(); ++m) total += table.frequency[m];
    return total;
}

// Takes from, or gives to, the most frequent magnitude until zero has what it needs.
void balance(Table& table, bool zero_occurs) {
    const std::uint32_t most = rans::kTotal / 2 - (zero_occurs ? 1 : 0);
    std::uint32_t total = pairs_total(table);
    for (; total > most; --total) --*std::max_element(table.frequency.begin() + 1, table.frequency.end());
    if (!zero_occurs) {
        auto& largest = *std::max_element(table.frequency.begin() + 1, table.frequency.end());
        largest = static_cast<std::uint16_t>(largest + (most - total));
    }
}

void write(const Table& table, BitWriter& bits) {
    bits.put(static_cast<std::uint32_t>(table.magnitude_max), 8);
    for (int m = 1; m <= table.magnitude_max; ++m)
        bits.put_gamma(table.frequency[static_cast<std::size_t>(m)]);
    for (int m = 1; m <= table.magnitude_max && m <= static_cast<int>(kOffsets); ++m) {
        bits.put(static_cast<std::uint32_t>(table.offset[offset_class(m)] + 128), 8);
    }
}

Result<Table> read(BitReader& bits, std::size_t group) {
    Table table;
    const std::string where = "the table of group " + std::to_string(group);
    table.magnitude_max = static_cast<int>(bits.get(8));
    if (table.magnitude_max > kLevelMax) {
        return make_error(Errc::Malformed, where + " claims levels up to " +
                                               std::to_string(table.magnitude_max) + "; 127 is the highest");
    }
    for (int m = 1; m <= table.magnitude_max; ++m) {
        table.frequency[static_cast<std::size_t>(m)] =
            static_cast<std::uint16_t>(bits.get_gamma(kGammaWidthMax));
    }
    for (int m = 1; m <= table.magnitude_max && m <= static_cast<int>(kOffsets); ++m) {
        table.offset[offset_class(m)] = static_cast<std::int8_t>(static_cast<int>(bits.get(8)) - 128);
    }
    const std::uint32_t pairs = pairs_total(table);
    if (!bits.ok() || 2 * pairs > rans::kTotal ||
        (table.magnitude_max > 0 && table.frequency[static_cast<std::size_t>(table.magnitude_max)] == 0)) {
        return make_error(Errc::Malformed, where +
                                               " is inconsistent: its frequencies do not fit into 4096, its "
                                               "highest level does not occur, or bytes are missing");
    }
    table.frequency[0] = static_cast<std::uint16_t>(rans::kTotal - 2 * pairs);
    return table;
}

}  // namespace

std::uint32_t Table::start(int level) const {
    if (level == 0) return 0;
    std::uint32_t start = frequency[0];
    const int magnitude = std::abs(level);
    for (int m = 1; m < magnitude; ++m) start += 2u * frequency[static_cast<std::size_t>(m)];
    return start + (level < 0 ? frequency[static_cast<std::size_t>(magnitude)] : 0u);
}

float Table::value(int level, float step) const {
    if (level == 0) return 0.0f;
    const int magnitude = std::abs(level);
    const int units = kOffsetsPerStep * magnitude + offset[offset_class(magnitude)];
    return static_cast<float>(level < 0 ? -units : units) * (step / kOffsetsPerStep);
}

Table make_table(const Statistics& statistics) {
    Table table;
    table.magnitude_max = magnitudes(statistics);
    table.frequency[0] = rans::kTotal;
    if (table.magnitude_max == 0) return table;
    std::uint64_t total = 0;
    for (const std::uint64_t count : statistics.counts) total += count;
    std::array<std::uint64_t, kOffsets> in_class{};
    for (int m = 1; m <= table.magnitude_max; ++m) {
        const std::uint64_t count = statistics.counts[static_cast<std::size_t>(m)];
        in_class[offset_class(m)] += count;
        if (count == 0) continue;
        const std::uint64_t share = (count * rans::kTotal + total) / (2 * total);
        table.frequency[static_cast<std::size_t>(m)] =
            static_cast<std::uint16_t>(std::max<std::uint64_t>(1, share));
    }
    balance(table, statistics.counts[0] > 0);
    table.frequency[0] = static_cast<std::uint16_t>(rans::kTotal - 2 * pairs_total(table));
    for (std::size_t c = 0; c < kOffsets; ++c) {
        const auto count = static_cast<std::int64_t>(in_class[c]);
        if (count == 0) continue;
        // Nearest integer, halves up, also where the sum is negative.
        const std::int64_t twice = 2 * statistics.offset_sums[c] + count + 512 * count;
        table.offset[c] = static_cast<std::int8_t>(std::min<std::int64_t>(127, twice / (2 * count) - 256));
    }
    return table;
}

std::vector<std::byte> write_parameters(float step, std::span<const Table> tables) {
    std::vector<std::byte> bytes;
    append_number(bytes, step);
    if (step == 0) return bytes;
    BitWriter bits;
    for (const Table& table : tables) write(table, bits);
    const std::vector<std::byte> packed = std::move(bits).finish();
    bytes.insert(bytes.end(), packed.begin(), packed.end());
    return bytes;
}

std::uint64_t parameter_bytes_most(std::uint32_t groups) {
    constexpr std::uint64_t kTableBits = 8 + kLevelMax * (2 * kGammaWidthMax + 1) + 8 * kOffsets;
    return sizeof(float) + (groups * kTableBits + 7) / 8;
}

Result<Parameters> read_parameters(std::span<const std::byte> bytes, std::uint32_t groups) {
    if (bytes.size() < sizeof(float)) {
        return make_error(Errc::Malformed,
                          "the parameters of a deadzone update begin with its step: 4 bytes");
    }
    Parameters parameters{read_number<float>(bytes, 0), {}};
    const auto tables = bytes.subspan(sizeof(float));
    // Compared as bits: -0 is not another spelling of 0.
    if (std::bit_cast<std::uint32_t>(parameters.step) == 0) {
        if (tables.empty()) return parameters;
        return make_error(Errc::Malformed, "a deadzone update with a step of 0 has no tables; here are " +
                                               std::to_string(tables.size()) + " bytes of them");
    }
    if (!(parameters.step >= kStepMin && parameters.step <= kStepMax)) {
        return make_error(Errc::Malformed, "the step of a deadzone update is " +
                                               std::to_string(parameters.step) +
                                               "; expected a number between 2^-100 and 2^120, or 0");
    }
    BitReader bits(tables);
    for (std::size_t group = 0; group < groups; ++group) {
        FEDLLM_TRY(const Table table, read(bits, group));
        parameters.tables.push_back(table);
    }
    if (bits.finished()) return parameters;
    return make_error(Errc::Malformed, "the tables of a deadzone update are followed by something else");
}

void expand(const Table& table, EncodeTable& out) {
    for (int level = -table.magnitude_max; level <= table.magnitude_max; ++level) {
        const std::uint32_t frequency = table.frequency[static_cast<std::size_t>(std::abs(level))];
        if (frequency == 0) continue;
        const auto index = static_cast<std::size_t>(level + kLevelBias);
        const rans::Symbol symbol = rans::symbol(frequency, table.start(level));
        out.range[index] = symbol.frequency | symbol.start << 16;
        out.reciprocal[index] = symbol.reciprocal;
    }
}

void expand(const Table& table, float step, DecodeTable& out) {
    for (int level = -table.magnitude_max; level <= table.magnitude_max; ++level) {
        const std::uint32_t frequency = table.frequency[static_cast<std::size_t>(std::abs(level))];
        const auto index = static_cast<std::uint32_t>(level + kLevelBias);
        out.values[index] = table.value(level, step);
        const std::uint32_t start = table.start(level);
        for (std::uint32_t i = 0; i < frequency && frequency < rans::kTotal; ++i) {
            out.slots[start + i] = rans::slot_entry(frequency, i, index);
        }
    }
}

}  // namespace fedllm::codec::deadzone
