#include "common/codec/blocks.hpp"

#include <array>
#include <string>

#include "common/codec/container.hpp"

namespace fedllm::codec::blocks {
namespace {

struct Levels {
    std::uint16_t scale = 0;
    std::array<int, kBlockValues> level{};
};

Levels levels_of(std::span<const float> values, int most, const Draw& draw) {
    float largest = 0;
    for (const float value : values) largest = std::max(largest, std::fabs(value));
    Levels result{scale_up(largest, most), {}};
    const float inverse = result.scale == 0 ? 0.0f : 1.0f / bf16_value(result.scale);
    for (std::size_t i = 0; i < values.size(); ++i) {
        result.level[i] =
            draw.rounding == Rounding::Nearest
                ? level_nearest(values[i], inverse, most)
                : level_stochastic(values[i], inverse, most, uniform_of(draw.key, draw.first_element + i));
    }
    return result;
}

void append_int8(std::vector<std::byte>& bytes, std::span<const float> values, const Draw& draw) {
    const Levels block = levels_of(values, kInt8Levels, draw);
    append_number(bytes, block.scale);
    for (std::size_t i = 0; i < values.size(); ++i) bytes.push_back(static_cast<std::byte>(block.level[i]));
}

void append_int4(std::vector<std::byte>& bytes, std::span<const float> values, const Draw& draw) {
    const Levels block = levels_of(values, kInt4Levels, draw);
    append_number(bytes, block.scale);
    for (std::size_t i = 0; i < values.size(); i += 2) {
        const int low = block.level[i] + kInt4Bias;
        const int high = i + 1 < values.size() ? block.level[i + 1] + kInt4Bias : 0;
        bytes.push_back(static_cast<std::byte>(low | high << 4));
    }
}

void append_sign(std::vector<std::byte>& bytes, std::span<const float> values) {
    double sum = 0;
    for (const float value : values) sum += std::fabs(static_cast<double>(value));
    const auto mean = static_cast<float>(sum / static_cast<double>(values.size()));
    append_number(bytes, std::min(bf16_nearest(mean), kScaleMax));
    for (std::size_t i = 0; i < values.size(); i += 8) {
        unsigned negative = 0;
        for (std::size_t bit = 0; bit < 8 && i + bit < values.size(); ++bit) {
            negative |= (values[i + bit] < 0 ? 1u : 0u) << bit;
        }
        bytes.push_back(static_cast<std::byte>(negative));
    }
}

const char* read_bf16(std::span<const std::byte> bytes, std::span<float> values) {
    unsigned beyond = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
        const auto bits = read_number<std::uint16_t>(bytes, 2 * i);
        beyond |= (bits & 0x7FFFu) > kLargestBf16 ? 1u : 0u;
        values[i] = bf16_value(bits);
    }
    return beyond == 0 ? nullptr : "holds a NaN or infinity";
}

const char* read_int8(std::span<const std::byte> bytes, float scale, std::span<float> values) {
    bool outside = false;
    for (std::size_t i = 0; i < values.size(); ++i) {
        const auto level = static_cast<std::int8_t>(bytes[i]);
        outside |= level < -kInt8Levels;
        values[i] = static_cast<float>(level) * scale;
    }
    return outside ? "holds the number -128, which stands for nothing" : nullptr;
}

const char* read_int4(std::span<const std::byte> bytes, float scale, std::span<float> values) {
    bool outside = false;
    for (std::size_t i = 0; i < values.size(); ++i) {
        const unsigned nibble = static_cast<unsigned>(bytes[i / 2]) >> (i % 2 * 4) & 0xFu;
        outside |= nibble == 0;
        values[i] = static_cast<float>(static_cast<int>(nibble) - kInt4Bias) * scale;
    }
    outside |= values.size() % 2 != 0 && static_cast<unsigned>(bytes.back()) >> 4 != 0;
    return outside ? "holds a nibble of 0 for a value, or fills up with another" : nullptr;
}

const char* read_sign(std::span<const std::byte> bytes, float scale, std::span<float> values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
        const bool negative = (static_cast<unsigned>(bytes[i / 8]) >> (i % 8) & 1u) != 0;
        values[i] = negative ? -scale : scale;
    }
    const unsigned rest = values.size() % 8;
    const bool filled = rest != 0 && static_cast<unsigned>(bytes.back()) >> rest != 0;
    return filled ? "has bits beyond its last value" : nullptr;
}

std::uint64_t block_values(CodecId codec) {  // bf16 has no blocks: as many as a slice holds
    return codec == CodecId::Bf16 ? std::uint64_t{kSliceValuesMax} : kBlockValues;
}

}  // namespace

void append_block(std::vector<std::byte>& bytes, CodecId codec, std::span<const float> values,
                  const Draw& draw) {
    if (codec == CodecId::Int8) return append_int8(bytes, values, draw);
    if (codec == CodecId::Int4) return append_int4(bytes, values, draw);
    if (codec == CodecId::Sign) return append_sign(bytes, values);
    for (const float value : values) append_number(bytes, bf16_nearest(value));
}

std::uint64_t block_bytes(CodecId codec, std::uint64_t values) {
    switch (codec) {
        case CodecId::Int8: return 2 + values;
        case CodecId::Int4: return 2 + (values + 1) / 2;
        case CodecId::Sign: return 2 + (values + 7) / 8;
        default: return 2 * values;
    }
}

const char* read_block(CodecId codec, std::span<const std::byte> bytes, std::span<float> values) {
    if (codec == CodecId::Bf16) return read_bf16(bytes, values);
    const auto scale = read_number<std::uint16_t>(bytes, 0);
    if (scale > kScaleMax) return "has a scale that is negative, above 2^120 or no number";
    const auto rest = bytes.subspan(2);
    if (codec == CodecId::Int8) return read_int8(rest, bf16_value(scale), values);
    if (codec == CodecId::Int4) return read_int4(rest, bf16_value(scale), values);
    return read_sign(rest, bf16_value(scale), values);
}

Result<std::vector<std::byte>> encode(const Spec& spec, const Layout& layout, std::span<const float> values,
                                      std::uint64_t key) {
    std::vector<std::byte> bytes;
    bytes.reserve(encoded_bytes(spec.id, layout).most);
    append_header(bytes, spec.id, layout, {});
    for (std::uint64_t first = 0; first < values.size(); first += kSegmentValues) {
        const std::uint64_t count = std::min(kSegmentValues, values.size() - first);
        const std::size_t begun = begin_segment(bytes);
        for (std::uint64_t at = 0; at < count; at += block_values(spec.id)) {
            const auto block = values.subspan(first + at, std::min(block_values(spec.id), count - at));
            append_block(bytes, spec.id, block, {spec.rounding, key, first + at});
        }
        end_segment(bytes, begun);
    }
    return bytes;
}

std::uint64_t payload_bytes(CodecId codec, std::uint64_t count) {
    const std::uint64_t block = block_values(codec);
    const std::uint64_t rest = count % block;
    return count / block * block_bytes(codec, block) + (rest > 0 ? block_bytes(codec, rest) : 0);
}

Result<void> decode_segment(CodecId codec, const Segment& segment, const Sink& sink) {
    if (segment.payload.size() != payload_bytes(codec, segment.count)) {
        return malformed(segment, "has a payload of " + std::to_string(segment.payload.size()) +
                                      " bytes; expected " +
                                      std::to_string(payload_bytes(codec, segment.count)));
    }
    SliceWriter out(sink, segment.first_element);
    std::size_t at = 0;
    for (std::uint64_t done = 0; done < segment.count;) {
        const auto count = static_cast<std::size_t>(std::min(block_values(codec), segment.count - done));
        const auto bytes = static_cast<std::size_t>(block_bytes(codec, count));
        const std::span<float> values = out.room(count).first(count);
        if (const char* wrong = read_block(codec, segment.payload.subspan(at, bytes), values)) {
            return malformed(segment, std::string("at element ") +
                                          std::to_string(segment.first_element + done) + ": a block " +
                                          wrong);
        }
        out.written(count);
        at += bytes;
        done += count;
    }
    out.flush();
    return {};
}

}  // namespace fedllm::codec::blocks
