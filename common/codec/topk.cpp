#include "common/codec/topk.hpp"

#include <array>
#include <bit>
#include <cmath>

#include "common/codec/bit_stream.hpp"
#include "common/codec/blocks.hpp"
#include "common/codec/container.hpp"

namespace fedllm::codec::topk {
namespace {

CodecId codec_of(TopKValues kind) { return kind == TopKValues::Bf16 ? CodecId::Bf16 : CodecId::Int4; }
std::uint32_t magnitude_bits(float value) { return std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFu; }
std::uint64_t gap_bytes_most(std::uint64_t count) { return (count + 7) / 8; }

// Magnitudes above `bits` are selected, and the first `equal` of those with just these bits.
struct Threshold {
    std::uint32_t bits = 0;
    std::uint64_t equal = 0;
};

// Two histograms, of the upper 16 and the lower 15 bits of magnitudes: no sorting, no luck, the same on a
// GPU.
Threshold threshold_of(std::span<const float> values, std::uint64_t wanted) {
    std::vector<std::uint64_t> upper(std::size_t{1} << 16), lower(std::size_t{1} << 15);
    for (const float value : values) ++upper[magnitude_bits(value) >> 15];
    std::uint64_t left = wanted;
    std::uint32_t high = 0xFFFF;
    for (; high > 0 && upper[high] < left; --high) left -= upper[high];
    for (const float value : values) {
        if (magnitude_bits(value) >> 15 == high) ++lower[magnitude_bits(value) & 0x7FFFu];
    }
    std::uint32_t low = 0x7FFF;
    for (; low > 0 && lower[low] < left; --low) left -= lower[low];
    const Threshold found{high << 15 | low, left};
    return found.bits == 0 ? Threshold{0, 0} : found;
}

unsigned best_shift(std::span<const std::uint32_t> gaps) {
    unsigned best = 0;
    std::uint64_t best_bits = ~std::uint64_t{0};
    for (unsigned shift = 0; shift <= kShiftMax; ++shift) {
        std::uint64_t bits = gaps.size() * (1 + shift);
        for (const std::uint32_t gap : gaps) bits += gap >> shift;
        if (bits < best_bits) {
            best = shift;
            best_bits = bits;
        }
    }
    return best;
}

void append_segment(std::vector<std::byte>& bytes, std::span<const float> values, Threshold& threshold,
                    TopKValues kind) {
    std::vector<std::uint32_t> gaps;
    std::vector<float> selected;
    std::uint32_t next = 0;
    for (std::uint32_t i = 0; i < values.size(); ++i) {
        const std::uint32_t bits = magnitude_bits(values[i]);
        const bool equal = bits == threshold.bits && threshold.equal > 0;
        if (bits <= threshold.bits && !equal) continue;
        threshold.equal -= equal ? 1 : 0;
        gaps.push_back(i - next);
        selected.push_back(values[i]);
        next = i + 1;
    }
    const unsigned shift = best_shift(gaps);
    BitWriter writer;
    for (const std::uint32_t gap : gaps) writer.put_rice(gap, shift);
    const std::vector<std::byte> gap_bytes = std::move(writer).finish();
    const std::size_t begun = begin_segment(bytes);
    append_number(bytes, static_cast<std::uint32_t>(gaps.size()));
    append_number(bytes, static_cast<std::uint8_t>(shift));
    bytes.insert(bytes.end(), gap_bytes.begin(), gap_bytes.end());
    for (std::size_t at = 0; at < selected.size(); at += blocks::kBlockValues) {
        const std::size_t count = std::min<std::size_t>(blocks::kBlockValues, selected.size() - at);
        blocks::append_block(bytes, codec_of(kind), std::span(selected).subspan(at, count), {});
    }
    end_segment(bytes, begun);
}

// The selected values, a block at a time.
class Values {
public:
    Values(CodecId codec, std::span<const std::byte> bytes, std::uint64_t count)
        : codec_(codec), bytes_(bytes), left_(count) {}

    const char* next(float& value) {
        if (at_ == block_.size()) {
            block_ = std::span(buffer_).first(std::min<std::uint64_t>(left_, blocks::kBlockValues));
            const auto size = static_cast<std::size_t>(blocks::block_bytes(codec_, block_.size()));
            if (const char* wrong = blocks::read_block(codec_, bytes_.first(size), block_)) return wrong;
            bytes_ = bytes_.subspan(size);
            left_ -= block_.size();
            at_ = 0;
        }
        value = block_[at_++];
        return nullptr;
    }

private:
    CodecId codec_;
    std::span<const std::byte> bytes_;
    std::uint64_t left_;
    std::array<float, blocks::kBlockValues> buffer_{};
    std::span<float> block_;
    std::size_t at_ = 0;
};

}  // namespace

Result<std::vector<std::byte>> encode(const Spec& spec, const Layout& layout, std::span<const float> values) {
    Threshold threshold = threshold_of(values, selected_of(spec, layout.elements));
    std::vector<std::byte> bytes;
    append_header(bytes, CodecId::TopK, layout, parameters_of(spec));
    for (std::uint64_t first = 0; first < values.size(); first += kSegmentValues) {
        const std::uint64_t some = std::min(kSegmentValues, values.size() - first);
        append_segment(bytes, values.subspan(first, some), threshold, spec.topk_values);
    }
    return bytes;
}

ByteRange segment_bytes(std::uint64_t count) {
    constexpr std::uint64_t kFixed = kSegmentHeadBytes + kCountBytes;
    return {kFixed, kFixed + gap_bytes_most(count) +
                        std::max(blocks::payload_bytes(CodecId::Bf16, count),
                                 blocks::payload_bytes(CodecId::Int4, count))};
}

Result<TopKValues> read_parameters(std::span<const std::byte> parameters) {
    const bool sized = parameters.size() == kParameterBytes;
    if (sized && parameters[0] <= std::byte{1} && parameters[1] == std::byte{} &&
        parameters[2] == std::byte{} && parameters[3] == std::byte{}) {
        return static_cast<TopKValues>(parameters[0]);
    }
    return make_error(Errc::Malformed,
                      "the parameters of a topk update are 4 bytes: 0 (bf16) or 1 (int4), and three zeros");
}

Result<void> decode_segment(TopKValues kind, const Segment& segment, const Sink& sink) {
    if (segment.payload.size() < kCountBytes) return malformed(segment, "is too short for its count");
    const auto count = read_number<std::uint32_t>(segment.payload, 0);
    const auto shift = read_number<std::uint8_t>(segment.payload, 4);
    if (count > segment.count || shift > kShiftMax) {
        return malformed(segment, "claims " + std::to_string(count) + " selected values and a shift of " +
                                      std::to_string(shift) + "; expected at most " +
                                      std::to_string(segment.count) + " and 17");
    }
    const std::span<const std::byte> rest = segment.payload.subspan(kCountBytes);
    const std::uint64_t value_bytes = blocks::payload_bytes(codec_of(kind), count);
    if (rest.size() < value_bytes || rest.size() - value_bytes > gap_bytes_most(segment.count)) {
        return malformed(segment,
                         "has a size that does not fit " + std::to_string(count) + " selected values");
    }
    BitReader gaps(rest.first(rest.size() - value_bytes));
    Values values(codec_of(kind), rest.last(value_bytes), count);
    SliceWriter out(sink, segment.first_element);
    std::uint64_t left = segment.count;
    for (std::uint32_t i = 0; i < count; ++i) {
        const std::uint32_t gap = left == 0 ? 0 : gaps.get_rice(shift, static_cast<std::uint32_t>(left - 1));
        if (left == 0 || !gaps.ok()) return malformed(segment, "has an index beyond its last value");
        out.zeros(gap);
        if (const char* wrong = values.next(out.room(1)[0]))
            return malformed(segment, std::string("has a block that ") + wrong);
        out.written(1);
        left -= gap + 1;
    }
    if (!gaps.finished()) return malformed(segment, "has gaps that are followed by something else");
    out.zeros(left);
    out.flush();
    return {};
}

}  // namespace fedllm::codec::topk
