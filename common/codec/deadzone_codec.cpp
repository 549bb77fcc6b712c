#include "common/codec/deadzone_codec.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "common/codec/container.hpp"
#include "common/codec/deadzone_kernels.hpp"

namespace fedllm::codec::deadzone {
namespace {

constexpr std::size_t kStateBytes = sizeof(States);
constexpr std::size_t kSpareWords = 8;  // that encode_run() may overwrite below what it returns

float step_of(double rms, double factor) {
    const double step = rms * factor;
    if (!(step >= static_cast<double>(kStepMin))) return 0;
    return static_cast<float>(std::min(step, static_cast<double>(kStepMax)));
}

struct Size {
    double rms = 0;
    double largest = 0;  // magnitude
};

Result<Size> size_of(std::span<const float> values) {
    double sum = 0;
    std::uint32_t largest = 0;  // positive floats are ordered as their bits are, and integer maxima vectorise
    for (std::size_t at = 0; at < values.size(); at += kSquareBlock) {
        const auto part = values.subspan(at, std::min(kSquareBlock, values.size() - at));
        const double block = sum_of_squares(part);
        for (const float value : part) {
            largest = std::max(largest, std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFU);
        }
        if (!std::isfinite(block)) {
            return make_error(Errc::NotFinite, "a value among elements " + std::to_string(at) + " to " +
                                                   std::to_string(at + kSquareBlock - 1) +
                                                   " is not a finite number");
        }
        sum += block;
    }
    if (values.empty()) return Size{};
    return Size{std::sqrt(sum / static_cast<double>(values.size())), std::bit_cast<float>(largest)};
}

// Bits of an ideal coder, signs included.
double entropy_bits(const Statistics& statistics) {
    double total = 0, bits = 0;
    for (const std::uint64_t count : statistics.counts) total += static_cast<double>(count);
    for (std::size_t m = 0; m < statistics.counts.size(); ++m) {
        const auto count = static_cast<double>(statistics.counts[m]);
        if (count > 0) bits += count * (std::log2(total / count) + (m > 0 ? 1.0 : 0.0));
    }
    return bits;
}

// Every n-th block of 64 values, about 2^16 values in all, each with its group: what steps are tried on.
class Sample {
public:
    Sample(const Layout& layout, std::span<const float> values) : groups_(layout.groups) {
        constexpr std::uint64_t kBlock = 64, kValues = std::uint64_t{1} << 16;
        const std::uint64_t every = std::max<std::uint64_t>(1, layout.elements / kValues);
        Pieces pieces(layout);
        for (std::uint64_t at = 0; at < layout.elements;) {
            const Layout::Run piece = pieces.next(kBlock - at % kBlock);
            if (at / kBlock % every == 0) parts_.push_back({values.subspan(at, piece.elements), piece.group});
            at += piece.elements;
        }
    }
    // Of the whole update, headers and all, per value.
    double bits_per_value(float step, std::uint64_t elements) const {
        std::vector<Statistics> statistics(groups_);
        std::array<std::int8_t, 64> levels{};
        std::uint64_t sampled = 0;
        for (const Part& part : parts_) {
            plain::quantize(part.values, 1.0f / step, levels.data(), statistics[part.group]);
            sampled += part.values.size();
        }
        double bits = 0;
        std::vector<Table> tables;
        for (const Statistics& group : statistics) {
            bits += entropy_bits(group);
            tables.push_back(make_table(group));
        }
        const auto all = static_cast<double>(elements);
        const double fixed =
            static_cast<double>(kPreludeBytes + kCrcBytes + write_parameters(step, tables).size() +
                                segments_of(elements) * (kSegmentHeadBytes + kStateBytes * 3 / 4));
        return bits / static_cast<double>(sampled) + 8 * fixed / all;
    }

private:
    struct Part {
        std::span<const float> values;
        std::uint32_t group;
    };
    std::uint32_t groups_;
    std::vector<Part> parts_;
};

// The least of 768 steps, 2^(1/64) apart, that is estimated to keep within spec.bits: ten trials. The finest
// puts the last level at eight root mean squares.
float step_for_bits(const Spec& spec, const Layout& layout, std::span<const float> values, double rms) {
    constexpr double kRatio = 1.0108892860517005;  // 2^(1/64)
    std::array<double, 768> factors{};
    double factor = 1.0 / 16;
    for (double& candidate : factors) {
        candidate = factor;
        factor *= kRatio;
    }
    const Sample sample(layout, values);
    std::size_t low = 0, high = factors.size() - 1;  // the answer is in [low, high]
    while (low < high) {
        const std::size_t middle = (low + high) / 2;
        const bool fits = sample.bits_per_value(step_of(rms, factors[middle]), layout.elements) <= spec.bits;
        (fits ? high : low) = fits ? middle : middle + 1;
    }
    return step_of(rms, factors[low]);
}

std::vector<Layout::Run> pieces_of(Pieces& pieces, std::uint64_t count) {
    std::vector<Layout::Run> result;
    for (std::uint64_t at = 0; at < count; at += result.back().elements)
        result.push_back(pieces.next(count - at));
    return result;
}

class SegmentEncoder {
public:
    explicit SegmentEncoder(std::span<const Table> tables) : tables_(tables.size()), words_(kWords) {
        for (std::size_t group = 0; group < tables.size(); ++group) {
            if (tables[group].magnitude_max == 0) continue;
            tables_[group] = std::make_unique<EncodeTable>();
            expand(tables[group], *tables_[group]);
        }
    }
    void append(std::vector<std::byte>& bytes, std::span<const Layout::Run> pieces, const std::int8_t* levels,
                std::uint64_t count) {
        States states;
        states.fill(rans::kStateMin);
        std::uint16_t* const end = words_.data() + words_.size();
        std::uint16_t* top = end;
        bool any = false;
        for (std::size_t i = pieces.size(); i-- > 0;) {
            const auto elements = static_cast<std::size_t>(pieces[i].elements);
            count -= elements;
            const EncodeTable* const table = tables_[pieces[i].group].get();
            if (table == nullptr) continue;
            any = true;
            top = encode_run({levels + count, elements}, *table, states, top);
        }
        if (!any) return;
        const std::size_t begun = begin_segment(bytes);
        const auto word_bytes = static_cast<std::size_t>(end - top) * sizeof(std::uint16_t);
        bytes.resize(bytes.size() + kStateBytes + word_bytes);
        std::memcpy(bytes.data() + begun + kSegmentHeadBytes, states.data(), kStateBytes);
        if (word_bytes > 0) std::memcpy(bytes.data() + bytes.size() - word_bytes, top, word_bytes);
        end_segment(bytes, begun);
    }

private:
    static constexpr std::size_t kWords = kSegmentValues + kSpareWords;
    std::vector<std::unique_ptr<EncodeTable>> tables_;
    std::vector<std::uint16_t> words_;
};

}  // namespace

Result<float> choose_step(const Spec& spec, const Layout& layout, std::span<const float> values) {
    FEDLLM_TRY(const Size size, size_of(values));
    if (step_of(size.rms, 1) == 0) return 0.0f;
    // What never is sent is never repaid: where all values are of about one size (Adam's first steps, a
    // residual below the last dead zone) a step that follows their size alone would leave them all in the
    // dead zone, round after round.
    if (spec.bits <= 0) return step_of(std::min(size.rms * spec.step, size.largest), 1);
    constexpr double kLargestCounts = 0.999 / kThreshold;  // the largest value just leaves the dead zone
    return step_of(
        std::min<double>(step_for_bits(spec, layout, values, size.rms), size.largest * kLargestCounts), 1);
}

Result<std::vector<std::byte>> encode(const Spec& spec, const Layout& layout, std::span<const float> values) {
    FEDLLM_TRY(const float step, choose_step(spec, layout, values));
    std::vector<std::byte> bytes;
    if (step == 0) {
        append_header(bytes, CodecId::Deadzone, layout, write_parameters(0, {}));
        return bytes;
    }
    const auto levels = std::make_unique_for_overwrite<std::int8_t[]>(values.size());
    std::vector<Statistics> statistics(layout.groups);
    std::uint64_t at = 0;
    for (const Layout::Run& run : layout.runs) {
        quantize(values.subspan(at, run.elements), 1.0f / step, levels.get() + at, statistics[run.group]);
        at += run.elements;
    }
    std::vector<Table> tables;
    for (const Statistics& group : statistics) tables.push_back(make_table(group));
    append_header(bytes, CodecId::Deadzone, layout, write_parameters(step, tables));
    SegmentEncoder encoder(tables);
    Pieces pieces(layout);
    for (std::uint64_t first = 0; first < layout.elements; first += kSegmentValues) {
        const std::uint64_t count = std::min(kSegmentValues, layout.elements - first);
        encoder.append(bytes, pieces_of(pieces, count), levels.get() + first, count);
    }
    return bytes;
}

ByteRange segment_bytes(std::uint64_t count) {
    return {0, kSegmentHeadBytes + kStateBytes + sizeof(std::uint16_t) * count};
}

Result<SegmentDecoder> SegmentDecoder::create(std::span<const std::byte> parameters, std::uint32_t groups) {
    FEDLLM_TRY(const Parameters read, read_parameters(parameters, groups));
    SegmentDecoder decoder;
    decoder.table_of_.assign(groups, -1);
    for (std::size_t group = 0; group < read.tables.size(); ++group) {
        if (read.tables[group].magnitude_max == 0) continue;
        decoder.table_of_[group] = static_cast<std::int32_t>(decoder.tables_.size());
        expand(read.tables[group], read.step, decoder.tables_.emplace_back());
    }
    return decoder;
}

bool SegmentDecoder::present(std::span<const Layout::Run> pieces) const {
    return std::ranges::any_of(pieces, [this](const Layout::Run& p) { return table_of_[p.group] >= 0; });
}

Result<void> SegmentDecoder::decode(const Segment& segment, std::span<const Layout::Run> pieces,
                                    const Sink& sink) const {
    const std::size_t bytes = segment.payload.size();
    if (bytes < kStateBytes || bytes % sizeof(std::uint16_t) != 0) {
        return malformed(segment, "has a payload of " + std::to_string(bytes) +
                                      " bytes: expected 128 bytes of states and whole words");
    }
    States states;
    std::memcpy(states.data(), segment.payload.data(), kStateBytes);
    std::vector<std::uint16_t> words((bytes - kStateBytes) / sizeof(std::uint16_t));
    if (!words.empty()) std::memcpy(words.data(), segment.payload.data() + kStateBytes, bytes - kStateBytes);
    const std::uint16_t* at = words.data();
    const std::uint16_t* const end = at + words.size();
    SliceWriter out(sink, segment.first_element);
    for (const Layout::Run& piece : pieces) {
        if (table_of_[piece.group] < 0) {
            out.zeros(piece.elements);
            continue;
        }
        const DecodeTable& table = tables_[static_cast<std::size_t>(table_of_[piece.group])];
        for (std::uint64_t left = piece.elements; left > 0;) {
            const std::span<float> room = out.room(std::min<std::uint64_t>(left, rans::kLanes));
            const std::size_t count =
                left <= room.size() ? left : room.size() / rans::kLanes * rans::kLanes;  // rows stay whole
            if (!decode_run(table, states, at, end, room.first(count))) {
                return malformed(segment, "ends before its last value");
            }
            out.written(count);
            left -= count;
        }
    }
    if (at != end || std::ranges::any_of(states, [](auto state) { return state != rans::kStateMin; })) {
        return malformed(segment, "does not end where its values end");
    }
    out.flush();
    return {};
}

}  // namespace fedllm::codec::deadzone
