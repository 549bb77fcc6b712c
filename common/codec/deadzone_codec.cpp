#include "common/codec/deadzone_codec.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>

#include "common/codec/container.hpp"
#include "common/codec/deadzone_kernels.hpp"
#include "common/codec/deadzone_step.hpp"

namespace fedllm::codec::deadzone {
namespace {

constexpr std::size_t kStateBytes = sizeof(States);
constexpr std::size_t kSpareWords = 8;  // that encode_run() may overwrite below what it returns

// Parts of an update that are worked on apart: whole segments, as many whatever the number of threads.
struct Part {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
};
std::vector<Part> parts_of(std::uint64_t elements) {
    constexpr std::uint64_t kPartsMax = 64;
    const std::uint64_t segments = (segments_of(elements) + kPartsMax - 1) / kPartsMax;
    std::vector<Part> parts;
    for (std::uint64_t at = 0; at < elements; at += parts.back().count) {
        parts.push_back({at, std::min(segments * kSegmentValues, elements - at)});
    }
    return parts;
}

std::uint32_t largest_of(std::span<const float> values) {
    std::uint32_t largest = 0;  // positive floats are ordered as their bits are, and integer maxima vectorise
    for (const float value : values) {
        largest = std::max(largest, std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFU);
    }
    return largest;
}

Result<Size> size_of(std::span<const float> values, const InParts& in_parts) {
    const std::vector<Part> parts = parts_of(values.size());
    std::vector<double> squares((values.size() + kSquareBlock - 1) / kSquareBlock);  // of each block
    std::vector<std::uint32_t> largest(parts.size());
    in_parts(parts.size(), [&](std::size_t i) {
        const auto [first, count] = parts[i];
        for (std::uint64_t at = first; at < first + count; at += kSquareBlock) {
            const auto block = values.subspan(at, std::min<std::uint64_t>(kSquareBlock, first + count - at));
            squares[at / kSquareBlock] = sum_of_squares(block);
            largest[i] = std::max(largest[i], largest_of(block));
        }
    });
    double sum = 0;
    for (std::size_t i = 0; i < squares.size(); ++i) {
        if (!std::isfinite(squares[i])) {
            return make_error(Errc::NotFinite, "a value among elements " + std::to_string(i * kSquareBlock) +
                                                   " to " + std::to_string((i + 1) * kSquareBlock - 1) +
                                                   " is not a finite number");
        }
        sum += squares[i];
    }
    if (values.empty()) return Size{};
    return Size{std::sqrt(sum / static_cast<double>(values.size())),
                std::bit_cast<float>(*std::ranges::max_element(largest))};
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

// The runs of the layout that lie in a segment.
std::vector<Layout::Run> pieces_from(const Layout& layout, std::uint64_t first, std::uint64_t count) {
    Pieces pieces(layout);
    for (std::uint64_t at = 0; at < first;) at += pieces.next(first - at).elements;
    return pieces_of(pieces, count);
}

// Gives the levels of each segment of the part, with its runs, to `each`; they are kept no longer, so that
// memory is a segment's and not a byte for every value.
using Levels = std::function<void(std::span<const Layout::Run>, std::span<const std::int8_t>)>;
void quantize_part(const Layout& layout, std::span<const float> values, const Part& part, float step,
                   std::vector<Statistics>& statistics, const Levels& each) {
    const auto levels = std::make_unique_for_overwrite<std::int8_t[]>(std::min(kSegmentValues, part.count));
    for (std::uint64_t first = part.first; first < part.first + part.count; first += kSegmentValues) {
        const std::uint64_t count = std::min(kSegmentValues, part.first + part.count - first);
        const auto pieces = pieces_from(layout, first, count);
        std::uint64_t at = 0;
        for (const Layout::Run& piece : pieces) {
            quantize(values.subspan(first + at, piece.elements), 1.0f / step, levels.get() + at,
                     statistics[piece.group]);
            at += piece.elements;
        }
        each(pieces, {levels.get(), count});
    }
}

void add(std::vector<Statistics>& sum, const std::vector<Statistics>& some) {
    for (std::size_t group = 0; group < sum.size(); ++group) {
        for (std::size_t m = 0; m < sum[group].counts.size(); ++m)
            sum[group].counts[m] += some[group].counts[m];
        for (std::size_t c = 0; c < kOffsets; ++c) sum[group].offset_sums[c] += some[group].offset_sums[c];
    }
}

std::vector<Table> tables_of(const Layout& layout, std::span<const float> values, float step,
                             const InParts& in_parts) {
    const std::vector<Part> parts = parts_of(values.size());
    std::vector<std::vector<Statistics>> statistics(parts.size());
    in_parts(parts.size(), [&](std::size_t i) {
        statistics[i].resize(layout.groups);
        quantize_part(layout, values, parts[i], step, statistics[i], [](auto, auto) {});
    });
    std::vector<Statistics> all(layout.groups);
    for (const auto& some : statistics) add(all, some);
    std::vector<Table> tables;
    for (const Statistics& group : all) tables.push_back(make_table(group));
    return tables;
}

// Concurrency: append() from any threads.
class SegmentEncoder {
public:
    explicit SegmentEncoder(std::span<const Table> tables) : tables_(tables.size()) {
        for (std::size_t group = 0; group < tables.size(); ++group) {
            if (tables[group].magnitude_max == 0) continue;
            tables_[group] = std::make_unique<EncodeTable>();
            expand(tables[group], *tables_[group]);
        }
    }
    void append(std::vector<std::byte>& bytes, std::span<const Layout::Run> pieces,
                std::span<const std::int8_t> levels) const {
        States states;
        states.fill(rans::kStateMin);
        const std::size_t size = levels.size() + kSpareWords;
        const auto words = std::make_unique_for_overwrite<std::uint16_t[]>(size);
        std::uint16_t* const end = words.get() + size;
        std::uint16_t* top = end;
        bool any = false;
        for (std::size_t i = pieces.size(); i-- > 0;) {
            const auto piece = levels.last(pieces[i].elements);
            levels = levels.first(levels.size() - piece.size());
            const EncodeTable* const table = tables_[pieces[i].group].get();
            if (table == nullptr) continue;
            any = true;
            top = encode_run(piece, *table, states, top);
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
    std::vector<std::unique_ptr<EncodeTable>> tables_;
};

}  // namespace

Result<float> choose_step(const Spec& spec, const Layout& layout, std::span<const float> values,
                          const InParts& in_parts) {
    FEDLLM_TRY(const Size size, size_of(values, in_parts));
    std::vector<float> sample;
    if (needs_sample(spec, size)) sample = sample_of(values);
    return choose_step(spec, layout, size, sample);
}

Result<std::vector<std::byte>> encode(const Spec& spec, const Layout& layout, std::span<const float> values,
                                      const InParts& in_parts) {
    FEDLLM_TRY(const float step, choose_step(spec, layout, values, in_parts));
    std::vector<std::byte> bytes;
    if (step == 0) {
        append_header(bytes, CodecId::Deadzone, layout, write_parameters(0, {}));
        return bytes;
    }
    const std::vector<Table> tables = tables_of(layout, values, step, in_parts);
    append_header(bytes, CodecId::Deadzone, layout, write_parameters(step, tables));
    const SegmentEncoder encoder(tables);
    const std::vector<Part> parts = parts_of(values.size());
    std::vector<std::vector<std::byte>> encoded(parts.size());
    in_parts(parts.size(), [&](std::size_t i) {
        std::vector<Statistics> known(layout.groups);
        quantize_part(layout, values, parts[i], step, known,
                      [&](auto pieces, auto levels) { encoder.append(encoded[i], pieces, levels); });
    });
    std::size_t size = bytes.size();
    for (const auto& part : encoded) size += part.size();
    bytes.reserve(size);
    for (auto& part : encoded) {
        bytes.insert(bytes.end(), part.begin(), part.end());
        part = std::vector<std::byte>();  // {} would keep its memory
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
