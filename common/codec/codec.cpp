#include "common/codec/codec.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "common/codec/blocks.hpp"
#include "common/codec/container.hpp"
#include "common/codec/deadzone_codec.hpp"
#include "common/codec/topk.hpp"

namespace fedllm::codec {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian, and values are copied");

namespace {

constexpr std::uint64_t kRawBytes = 4;  // of one value under CodecId::None

struct Bounds {
    ByteRange parameters;
    ByteRange (*segment)(CodecId codec, std::uint64_t count) = nullptr;
};

Bounds bounds_of(CodecId codec, std::uint32_t groups) {
    if (codec == CodecId::Deadzone) {
        return {{sizeof(float), deadzone::parameter_bytes_most(groups)},
                [](CodecId, std::uint64_t count) { return deadzone::segment_bytes(count); }};
    }
    if (codec == CodecId::TopK) {
        return {{topk::kParameterBytes, topk::kParameterBytes},
                [](CodecId, std::uint64_t count) { return topk::segment_bytes(count); }};
    }
    return {{0, 0}, [](CodecId id, std::uint64_t count) {
                const std::uint64_t bytes = kSegmentHeadBytes + blocks::payload_bytes(id, count);
                return ByteRange{bytes, bytes};
            }};
}

Result<void> check_finite(std::span<const float> values) {
    const auto bad = std::ranges::find_if(values, [](float value) { return !std::isfinite(value); });
    if (bad == values.end()) return {};
    return make_error(Errc::NotFinite,
                      "element " + std::to_string(bad - values.begin()) + " is not a finite number");
}

}  // namespace

std::string_view name(CodecId codec) {
    switch (codec) {
        case CodecId::None: return "none";
        case CodecId::Bf16: return "bf16";
        case CodecId::Int8: return "int8";
        case CodecId::Int4: return "int4";
        case CodecId::Sign: return "sign";
        case CodecId::TopK: return "topk";
        case CodecId::Deadzone: return "deadzone";
    }
    return "unknown";
}

Spec without_zeros(const Spec& spec, std::uint64_t elements, std::uint64_t zeros) {
    if (zeros == elements) return spec;
    const double share = 1 - static_cast<double>(zeros) / static_cast<double>(elements);
    Spec others = spec;
    others.step /= std::sqrt(share);
    others.bits *= share;
    return others;
}

Spec without_zeros(const Spec& spec, std::span<const float> values) {
    const auto zeros = std::count(values.begin(), values.end(), 0.0F);
    return without_zeros(spec, values.size(), static_cast<std::uint64_t>(zeros));
}

ByteRange encoded_bytes(CodecId codec, const Layout& layout) {
    if (codec == CodecId::None) return {kRawBytes * layout.elements, kRawBytes * layout.elements};
    const Bounds bounds = bounds_of(codec, layout.groups);
    const std::uint64_t header = kPreludeBytes + kCrcBytes;
    const std::uint64_t whole = layout.elements / kSegmentValues, rest = layout.elements % kSegmentValues;
    const ByteRange full = bounds.segment(codec, kSegmentValues);
    const ByteRange last = rest > 0 ? bounds.segment(codec, rest) : ByteRange{};
    return {header + bounds.parameters.least + whole * full.least + last.least,
            header + bounds.parameters.most + whole * full.most + last.most};
}

void one_after_another(std::size_t count, const std::function<void(std::size_t)>& each) {
    for (std::size_t i = 0; i < count; ++i) each(i);
}

Result<std::vector<std::byte>> encode(const Spec& spec, const Layout& layout, std::span<const float> values,
                                      std::uint64_t key, const InParts& in_parts) {
    FEDLLM_CHECK(values.size() == layout.elements);
    if (spec.id == CodecId::Deadzone) return deadzone::encode(spec, layout, values, in_parts);
    if (spec.id == CodecId::None) {
        std::vector<std::byte> bytes(values.size_bytes());
        if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
        return bytes;
    }
    FEDLLM_TRY_VOID(check_finite(values));
    if (spec.id == CodecId::TopK) return topk::encode(spec, layout, values);
    return blocks::encode(spec, layout, values, key);
}

}  // namespace fedllm::codec
