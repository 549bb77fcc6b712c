// What the encoder (op.cu) and its codecs (deadzone.cu, topk.cu, blocks.cu) agree on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/codec/container.hpp"
#include "kernels/compress/op_cuda.hpp"
#include "kernels/cuda/runtime.hpp"

namespace fedllm::kernels::cuda::compress {

// Where in its room a segment's payload lies; of size 0 where the segment is left out.
struct Place {
    std::uint32_t begin = 0;
    std::uint32_t size = 0;
};

// Room for the payload of every segment, `pitch` bytes each.
struct Payloads {
    DeviceBuffer<std::uint8_t> bytes;
    std::size_t pitch = 0;
    std::vector<Place> places;  // by segment, once encoded
};

struct Task {
    const Stream& stream;
    const codec::Spec& spec;
    const codec::Layout& layout;
    std::uint64_t key = 0;
    const Measure& measure;        // of `sent`
    const float* sent = nullptr;   // (N), finite
    float* decoded = nullptr;      // (N), to be written
    Payloads* payloads = nullptr;  // to be filled
};

class Coder {
public:
    virtual ~Coder() = default;
    virtual std::size_t payload_bytes_most(std::size_t values) const = 0;  // of a segment
    // Fills payloads and decoded; returns the container's parameters.
    virtual std::vector<std::byte> encode(const Task& task) = 0;
};
std::unique_ptr<Coder> make_deadzone(const codec::Layout& layout);
std::unique_ptr<Coder> make_topk(const codec::Layout& layout);
std::unique_ptr<Coder> make_blocks(codec::CodecId codec);  // bf16, int8, int4, sign

// Consecutive values of one group, within one segment. A run of the layout is cut into pieces of
// kPieceValues, whole rows of rANS, so that each is a block's work.
struct Piece {
    std::uint64_t first = 0;
    std::uint32_t count = 0;
    std::uint32_t group = 0;
};
constexpr std::uint64_t kPieceValues = 8192;

struct PieceList {
    DeviceBuffer<Piece> pieces;
    DeviceBuffer<std::uint32_t> begins;  // of each segment's first piece, and the end
};
PieceList make_pieces(const codec::Layout& layout);

// Copies of host values; the host waits until they are there.
template <class T>
void upload(const Stream& stream, const DeviceBuffer<T>& to, std::span<const T> from) {
    copy_to_device(stream, to.data(), from.data(), from.size_bytes());
    stream.synchronize();
}
template <class T>
std::vector<T> download(const Stream& stream, const T* from, std::size_t count) {
    std::vector<T> values(count);
    copy_to_host(stream, values.data(), from, count * sizeof(T));
    stream.synchronize();
    return values;
}

}  // namespace fedllm::kernels::cuda::compress
