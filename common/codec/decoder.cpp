#include <algorithm>
#include <cstring>
#include <string>

#include "common/codec/blocks.hpp"
#include "common/codec/codec.hpp"
#include "common/codec/container.hpp"
#include "common/codec/crc32c.hpp"
#include "common/codec/deadzone_codec.hpp"
#include "common/codec/topk.hpp"

namespace fedllm::codec {
namespace {

// What the next bytes are.
enum class Part : std::uint8_t { Prelude, Parameters, SegmentHead, Payload, End };

bool is_aligned(std::span<const std::byte> bytes) {
    return reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(float) == 0;
}

}  // namespace

struct Decoder::State {
    State(CodecId id, const Layout& of) : codec(id), layout(of), pieces(layout) {
        if (codec == CodecId::None) part = Part::Payload;
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    Result<void> push(std::span<const std::byte> bytes, const Sink& sink);
    Result<void> push_raw(std::span<const std::byte> bytes, const Sink& sink);

    CodecId codec;
    Layout layout;
    std::uint64_t decoded = 0;
    Part part = Part::Prelude;

private:
    std::uint64_t needed() const;  // bytes of the part
    Result<void> take(std::span<const std::byte> bytes, const Sink& sink);
    Result<void> take_prelude(std::span<const std::byte> bytes);
    Result<void> take_parameters(std::span<const std::byte> bytes, const Sink& sink);
    Result<void> take_head(std::span<const std::byte> bytes);
    Result<void> take_payload(std::span<const std::byte> bytes, const Sink& sink);
    void next_segment(const Sink& sink);
    ByteRange payload_range() const;

    std::vector<std::byte> kept;  // the first bytes of a part whose rest has not arrived
    std::vector<std::byte> prelude;
    std::uint32_t parameter_bytes = 0;
    std::uint32_t payload_bytes = 0;
    std::uint32_t payload_crc = 0;
    Pieces pieces;
    std::uint64_t segment_count = 0;
    std::vector<Layout::Run> segment_pieces;  // deadzone
    TopKValues topk_values = TopKValues::Bf16;
    deadzone::SegmentDecoder deadzone_tables;
};

std::uint64_t Decoder::State::needed() const {
    switch (part) {
        case Part::Prelude: return kPreludeBytes;
        case Part::Parameters: return parameter_bytes + kCrcBytes;
        case Part::SegmentHead: return kSegmentHeadBytes;
        default: return payload_bytes;
    }
}

Result<void> Decoder::State::push(std::span<const std::byte> bytes, const Sink& sink) {
    while (part != Part::End) {
        const std::size_t missing = static_cast<std::size_t>(needed()) - kept.size();
        if (bytes.size() < missing) {
            kept.insert(kept.end(), bytes.begin(), bytes.end());
            return {};
        }
        if (kept.empty()) {  // whole in what arrived: no copy
            FEDLLM_TRY_VOID(take(bytes.first(missing), sink));
        } else {
            kept.insert(kept.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(missing));
            FEDLLM_TRY_VOID(take(kept, sink));
            kept.clear();
        }
        bytes = bytes.subspan(missing);
    }
    if (bytes.empty()) return {};
    return make_error(Errc::TooLarge, "an update of " + std::to_string(layout.elements) +
                                          " values goes on for " + std::to_string(bytes.size()) +
                                          " bytes after its end");
}

Result<void> Decoder::State::take(std::span<const std::byte> bytes, const Sink& sink) {
    switch (part) {
        case Part::Prelude: return take_prelude(bytes);
        case Part::Parameters: return take_parameters(bytes, sink);
        case Part::SegmentHead: return take_head(bytes);
        default: return take_payload(bytes, sink);
    }
}

Result<void> Decoder::State::take_prelude(std::span<const std::byte> bytes) {
    const std::uint64_t most = codec == CodecId::Deadzone ? deadzone::parameter_bytes_most(layout.groups)
                               : codec == CodecId::TopK   ? topk::kParameterBytes
                                                          : 0;
    FEDLLM_TRY(parameter_bytes, check_prelude(bytes, codec, layout, most));
    prelude.assign(bytes.begin(), bytes.end());
    part = Part::Parameters;
    return {};
}

Result<void> Decoder::State::take_parameters(std::span<const std::byte> bytes, const Sink& sink) {
    const auto parameters = bytes.first(parameter_bytes);
    prelude.insert(prelude.end(), parameters.begin(), parameters.end());
    if (crc32c(prelude) != read_number<std::uint32_t>(bytes, parameter_bytes)) {
        return make_error(Errc::Malformed,
                          "the header of the encoded update does not have the CRC-32C it states");
    }
    if (codec == CodecId::Deadzone) {
        FEDLLM_TRY(deadzone_tables, deadzone::SegmentDecoder::create(parameters, layout.groups));
    }
    if (codec == CodecId::TopK) {
        FEDLLM_TRY(topk_values, topk::read_parameters(parameters));
    }
    next_segment(sink);
    return {};
}

// Goes to the next segment that is in the stream; those left out are zero.
void Decoder::State::next_segment(const Sink& sink) {
    for (; decoded < layout.elements; decoded += segment_count) {
        segment_count = std::min(kSegmentValues, layout.elements - decoded);
        part = Part::SegmentHead;
        if (codec != CodecId::Deadzone) return;
        segment_pieces.clear();
        for (std::uint64_t left = segment_count; left > 0; left -= segment_pieces.back().elements) {
            segment_pieces.push_back(pieces.next(left));
        }
        if (deadzone_tables.present(segment_pieces)) return;
        SliceWriter out(sink, decoded);
        out.zeros(segment_count);
        out.flush();
    }
    part = Part::End;
}

ByteRange Decoder::State::payload_range() const {
    if (codec == CodecId::Deadzone) return deadzone::segment_bytes(segment_count);
    if (codec == CodecId::TopK) return topk::segment_bytes(segment_count);
    const std::uint64_t bytes = kSegmentHeadBytes + blocks::payload_bytes(codec, segment_count);
    return {bytes, bytes};
}

Result<void> Decoder::State::take_head(std::span<const std::byte> bytes) {
    payload_bytes = read_number<std::uint32_t>(bytes, 0);
    payload_crc = read_number<std::uint32_t>(bytes, 4);
    const ByteRange range = payload_range();
    if (const std::uint64_t size = kSegmentHeadBytes + std::uint64_t{payload_bytes};
        size < range.least || size > range.most) {
        return make_error(size > range.most ? Errc::TooLarge : Errc::Malformed,
                          describe(Segment{decoded, segment_count, {}}) + " claims " + std::to_string(size) +
                              " bytes; " + std::to_string(range.least) + " to " + std::to_string(range.most) +
                              " are possible");
    }
    part = Part::Payload;
    return {};
}

Result<void> Decoder::State::take_payload(std::span<const std::byte> bytes, const Sink& sink) {
    const Segment segment{decoded, segment_count, bytes};
    if (crc32c(bytes) != payload_crc) return malformed(segment, "does not have the CRC-32C it states");
    if (codec == CodecId::Deadzone) {
        FEDLLM_TRY_VOID(deadzone_tables.decode(segment, segment_pieces, sink));
    } else if (codec == CodecId::TopK) {
        FEDLLM_TRY_VOID(topk::decode_segment(topk_values, segment, sink));
    } else {
        FEDLLM_TRY_VOID(blocks::decode_segment(codec, segment, sink));
    }
    decoded += segment_count;
    next_segment(sink);
    return {};
}

// CodecId::None: nothing but values; one may straddle two pieces.
Result<void> Decoder::State::push_raw(std::span<const std::byte> bytes, const Sink& sink) {
    const std::uint64_t missing = sizeof(float) * (layout.elements - decoded) - kept.size();
    if (bytes.size() > missing) {
        return make_error(Errc::TooLarge,
                          "an update of " + std::to_string(layout.elements) + " values goes on for " +
                              std::to_string(bytes.size() - missing) + " bytes after its end");
    }
    // Where they lie as floats do, they are floats.
    while (kept.empty() && bytes.size() >= sizeof(float) && is_aligned(bytes)) {
        const std::size_t count = std::min(bytes.size() / sizeof(float), kSliceValuesMax);
        sink(decoded, {reinterpret_cast<const float*>(bytes.data()), count});
        bytes = bytes.subspan(count * sizeof(float));
        decoded += count;
    }
    SliceWriter out(sink, decoded);
    while (kept.size() + bytes.size() >= sizeof(float)) {
        const std::span<float> room = out.room(1);
        const std::size_t count = std::min(room.size(), (kept.size() + bytes.size()) / sizeof(float));
        const std::size_t taken = count * sizeof(float) - kept.size();
        const auto target = std::as_writable_bytes(room);
        std::copy(kept.begin(), kept.end(), target.begin());
        std::copy_n(bytes.begin(), taken, target.begin() + static_cast<std::ptrdiff_t>(kept.size()));
        kept.clear();
        bytes = bytes.subspan(taken);
        out.written(count);
        decoded += count;
    }
    out.flush();
    kept.insert(kept.end(), bytes.begin(), bytes.end());
    if (decoded == layout.elements) part = Part::End;
    return {};
}

Decoder::Decoder(CodecId codec, const Layout& layout) : state_(std::make_unique<State>(codec, layout)) {}
Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;

Result<void> Decoder::push(std::span<const std::byte> bytes, const Sink& sink) {
    if (state_->codec == CodecId::None) return state_->push_raw(bytes, sink);
    return state_->push(bytes, sink);
}

std::uint64_t Decoder::decoded() const { return state_->decoded; }

bool Decoder::complete() const {
    // Raw bytes of nothing are complete; a container has a header even then.
    if (state_->codec == CodecId::None) return state_->decoded == state_->layout.elements;
    return state_->part == Part::End;
}

std::uint64_t decoder_bytes(CodecId codec, const Layout& layout) {
    constexpr std::uint64_t kTableBytes = std::uint64_t{17} << 10;  // of a group, for deadzone
    const std::uint64_t runs = layout.runs.size() * sizeof(Layout::Run);
    const std::uint64_t slice = kSliceValuesMax * sizeof(float);
    const std::uint64_t segment = std::min(kSegmentValues, layout.elements);
    switch (codec) {
        case CodecId::None: return runs + slice;
        case CodecId::TopK: return runs + slice + topk::segment_bytes(segment).most;
        case CodecId::Deadzone:
            return runs + slice + deadzone::segment_bytes(segment).most + kTableBytes * layout.groups;
        default: return runs + slice + kSegmentHeadBytes + blocks::payload_bytes(codec, segment);
    }
}

Result<void> decode(CodecId codec, const Layout& layout, std::span<const std::byte> encoded,
                    const Sink& sink) {
    Decoder decoder(codec, layout);
    FEDLLM_TRY_VOID(decoder.push(encoded, sink));
    if (decoder.complete()) return {};
    return make_error(Errc::ManifestMismatch, "the encoded values end after " +
                                                  std::to_string(decoder.decoded()) + " of " +
                                                  std::to_string(layout.elements));
}

}  // namespace fedllm::codec
