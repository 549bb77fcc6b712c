#include "kernels/compress/op_cuda.hpp"

#include <bit>
#include <cstring>
#include <string>

#include "kernels/compress/coder.hpp"
#include "kernels/compress/measure.cuh"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"

namespace fedllm::kernels::cuda {
namespace compress {
namespace {

// Bodies of measure().
struct Subtract {  // x = after - before, and what was there
    const float *before, *after;
    float* x;
    bool accumulate;
    struct Read {
        float before, after, x;
    };
    __device__ Read load(std::uint64_t i) const { return {before[i], after[i], accumulate ? x[i] : 0.0f}; }
    __device__ Two apply(std::uint64_t i, const Read& l) const {
        const float delta = l.after - l.before;
        const float sum = accumulate ? delta + l.x : delta;
        x[i] = sum;
        return {delta, sum};
    }
};
struct Scale {
    float* values;
    double factor;
    __device__ float load(std::uint64_t i) const { return values[i]; }
    __device__ Two apply(std::uint64_t i, float value) const {
        const auto scaled = static_cast<float>(value * factor);
        values[i] = scaled;
        return {scaled, 0};
    }
};
struct Look {
    const float* values;
    __device__ float load(std::uint64_t i) const { return values[i]; }
    __device__ Two apply(std::uint64_t, float value) const { return {value, 0}; }
};
struct Compare {
    const float *sent, *decoded;
    struct Read {
        float sent, decoded;
    };
    __device__ Read load(std::uint64_t i) const { return {sent[i], decoded[i]}; }
    __device__ Two apply(std::uint64_t, const Read& l) const {
        return {l.decoded, static_cast<double>(l.sent) - l.decoded};
    }
};
struct TakeAway {
    float* x;
    const float* decoded;
    struct Read {
        float x, decoded;
    };
    __device__ Read load(std::uint64_t i) const { return {x[i], decoded[i]}; }
    __device__ Two apply(std::uint64_t i, const Read& l) const {
        const float left = l.x - l.decoded;
        x[i] = left;
        return {left, 0};
    }
};

__global__ void keep_groups(const Piece* pieces, const std::uint8_t* sent_groups, const float* x,
                            float* sent) {
    const Piece piece = pieces[blockIdx.x];
    const bool is_sent = sent_groups[piece.group] != 0;
    for_each_ahead(
        threadIdx.x, piece.count, blockDim.x,
        [&](std::uint32_t i) { return is_sent ? x[piece.first + i] : 0.0f; },
        [&](std::uint32_t i, float value) { sent[piece.first + i] = value; });
}

Measure total(std::span<const BlockMeasure> blocks) {
    Measure all;
    std::uint32_t largest = 0;
    for (std::size_t block = 0; block < blocks.size(); ++block) {
        const BlockMeasure& of = blocks[block];
        all.squares += of.squares;
        largest = std::max(largest, of.largest);
        all.zeros += of.zeros;
        if (of.not_finite != kNone && !all.not_finite)
            all.not_finite = block * codec::deadzone::kSquareBlock + of.not_finite;
    }
    all.largest = std::bit_cast<float>(largest);
    return all;
}

}  // namespace

PieceList make_pieces(const codec::Layout& layout) {
    std::vector<Piece> pieces;
    std::vector<std::uint32_t> begins;
    codec::Pieces walk(layout);
    for (std::uint64_t first = 0; first < layout.elements;) {
        begins.push_back(static_cast<std::uint32_t>(pieces.size()));
        const std::uint64_t end = std::min(first + codec::kSegmentValues, layout.elements);
        while (first < end) {
            const codec::Layout::Run run = walk.next(end - first);
            for (std::uint64_t at = 0; at < run.elements; at += kPieceValues) {
                const std::uint64_t count = std::min(kPieceValues, run.elements - at);
                pieces.push_back({first + at, static_cast<std::uint32_t>(count), run.group});
            }
            first += run.elements;
        }
    }
    begins.push_back(static_cast<std::uint32_t>(pieces.size()));
    PieceList list{DeviceBuffer<Piece>(pieces.size()), DeviceBuffer<std::uint32_t>(begins.size())};
    const Stream stream;
    upload<Piece>(stream, list.pieces, pieces);
    upload<std::uint32_t>(stream, list.begins, begins);
    return list;
}

}  // namespace compress

using namespace compress;

struct DeviceEncoder::State {
    codec::Layout layout;
    codec::CodecId codec;
    PieceList pieces;
    DeviceBuffer<std::uint8_t> sent_groups;
    DeviceBuffer<BlockMeasure> first, second;
    DeviceBuffer<float> sent, decoded;
    std::unique_ptr<Coder> coder;
    Payloads payloads;
    PinnedBuffer<std::byte> host;  // payloads on their way out; grows
    Measure measure;               // of sent

    State(const codec::Layout& of, codec::CodecId id)
        : layout(of),
          codec(id),
          pieces(make_pieces(of)),
          sent_groups(of.groups),
          first(blocks()),
          second(blocks()),
          sent(of.elements),
          decoded(of.elements) {
        if (id == codec::CodecId::None) return;
        coder = id == codec::CodecId::Deadzone ? make_deadzone(layout)
                : id == codec::CodecId::TopK   ? make_topk(layout)
                                               : make_blocks(id);
        const std::uint64_t segment = std::min(codec::kSegmentValues, layout.elements);
        payloads.pitch = (coder->payload_bytes_most(segment) + 15) / 16 * 16;
        payloads.bytes = DeviceBuffer<std::uint8_t>(payloads.pitch * segments());
        payloads.places.resize(segments());
    }

    std::size_t blocks() const {
        return (layout.elements + codec::deadzone::kSquareBlock - 1) / codec::deadzone::kSquareBlock;
    }
    std::size_t segments() const { return codec::segments_of(layout.elements); }

    template <class Body>
    Difference run(const Stream& stream, const Body& body, bool both) {
        launch(stream, {.grid = {blocks_for(layout.elements, kMeasureValues)}, .threads = kMeasureThreads},
               compress::measure<Body>, body, layout.elements, first.data(), both ? second.data() : nullptr);
        Difference result;
        result.delta = total(download(stream, first.data(), blocks()));
        if (both) result.x = total(download(stream, second.data(), blocks()));
        return result;
    }

    void append_segments(const Stream& stream, std::vector<std::byte>& bytes);
};

// All copies are under way before the first is waited for.
void DeviceEncoder::State::append_segments(const Stream& stream, std::vector<std::byte>& bytes) {
    std::size_t total_bytes = 0, shown = 0;
    for (const Place& place : payloads.places) {
        total_bytes += place.size;
        shown += place.size > 0 ? 1 : 0;
    }
    if (host.size() < total_bytes) host = PinnedBuffer<std::byte>(total_bytes + total_bytes / 4);
    std::size_t at = 0;
    for (std::size_t s = 0; s < payloads.places.size(); ++s) {
        const Place& place = payloads.places[s];
        if (place.size == 0) continue;
        copy_to_host(stream, host.data() + at, payloads.bytes.data() + s * payloads.pitch + place.begin,
                     place.size);
        at += place.size;
    }
    stream.synchronize();
    bytes.reserve(bytes.size() + total_bytes + shown * codec::kSegmentHeadBytes);
    const std::byte* from = host.data();
    for (const Place& place : payloads.places) {
        if (place.size == 0) continue;
        const std::size_t begun = codec::begin_segment(bytes);
        bytes.insert(bytes.end(), from, from + place.size);
        codec::end_segment(bytes, begun);
        from += place.size;
    }
}

DeviceEncoder::DeviceEncoder(const codec::Layout& layout, codec::CodecId codec)
    : state_(std::make_unique<State>(layout, codec)) {}
DeviceEncoder::~DeviceEncoder() = default;
DeviceEncoder::DeviceEncoder(DeviceEncoder&&) noexcept = default;
DeviceEncoder& DeviceEncoder::operator=(DeviceEncoder&&) noexcept = default;

Difference DeviceEncoder::difference(const Stream& stream, const float* before, const float* after,
                                     float* residual, Write write) {
    return state_->run(stream, Subtract{before, after, residual, write == Write::Accumulate}, /*both=*/true);
}

Measure DeviceEncoder::scale(const Stream& stream, float* x, double factor) {
    return state_->run(stream, Scale{x, factor}, /*both=*/false).delta;
}

Measure DeviceEncoder::send(const Stream& stream, const float* x, std::span<const std::uint8_t> sent_groups) {
    State& s = *state_;
    if (sent_groups.empty()) {
        copy_on_device(stream, s.sent.data(), x, s.sent.bytes());
    } else {
        FEDLLM_CHECK(sent_groups.size() == s.layout.groups);
        upload(stream, s.sent_groups, sent_groups);
        launch(stream, {.grid = {static_cast<unsigned>(s.pieces.pieces.size())}, .threads = 256}, keep_groups,
               s.pieces.pieces.data(), s.sent_groups.data(), x, s.sent.data());
    }
    return s.measure = s.run(stream, Look{s.sent.data()}, /*both=*/false).delta;
}

Measure DeviceEncoder::scale_sent(const Stream& stream, double factor) {
    return state_->measure = scale(stream, state_->sent.data(), factor);
}

Result<EncodedOnDevice> DeviceEncoder::encode(const Stream& stream, const codec::Spec& spec,
                                              std::uint64_t key) {
    State& s = *state_;
    FEDLLM_CHECK(spec.id == s.codec);
    EncodedOnDevice encoded;
    if (spec.id == codec::CodecId::None) {
        encoded.bytes.resize(s.sent.bytes());
        copy_to_host(stream, encoded.bytes.data(), s.sent.data(), s.sent.bytes());
        copy_on_device(stream, s.decoded.data(), s.sent.data(), s.sent.bytes());
    } else if (s.measure.not_finite) {
        return make_error(Errc::NotFinite,
                          "element " + std::to_string(*s.measure.not_finite) + " is not a finite number");
    } else {
        const Task task{stream, spec, s.layout, key, s.measure, s.sent.data(), s.decoded.data(), &s.payloads};
        const std::vector<std::byte> parameters = s.coder->encode(task);
        codec::append_header(encoded.bytes, spec.id, s.layout, parameters);
        s.append_segments(stream, encoded.bytes);
    }
    const Difference compared = s.run(stream, Compare{s.sent.data(), s.decoded.data()}, /*both=*/true);
    encoded.decoded_squares = compared.delta.squares;
    encoded.lost_squares = compared.x.squares;
    return encoded;
}

Measure DeviceEncoder::subtract_decoded(const Stream& stream, float* x) {
    return state_->run(stream, TakeAway{x, state_->decoded.data()}, /*both=*/false).delta;
}

}  // namespace fedllm::kernels::cuda
