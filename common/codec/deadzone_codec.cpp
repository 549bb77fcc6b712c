#include "common/codec/deadzone_codec.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "common/codec/container.hpp"
#include "common/codec/deadzone_kernels.hpp"
#include "common/codec/deadzone_step.hpp"

namespace fedllm::codec::deadzone {
namespace {

constexpr std::size_t kStateBytes = sizeof(States);
constexpr std::size_t kSpareWords = 8;  // that encode_run() may overwrite below what it returns

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

std::vector<float> sample_of(std::span<const float> values) {
    const SamplePlan plan(values.size());
    std::vector<float> sample(plan.count);
    for (std::uint64_t i = 0; i < plan.count; ++i) sample[i] = values[plan.element_of(i)];
    return sample;
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
    std::vector<float> sample;
    if (needs_sample(spec, size)) sample = sample_of(values);
    return choose_step(spec, layout, size, sample);
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
