// `topk` on the GPU: the threshold by radix select, digits of 11, 10 and 10 bits, highest first; then a block
// a segment finds what is selected in order of its index, and codes it.
#include "common/codec/topk.hpp"

#include "kernels/compress/ahead.cuh"
#include "kernels/compress/coder.hpp"
#include "kernels/compress/topk_segment.cuh"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"

namespace fedllm::kernels::cuda::compress {
namespace {

namespace topk = codec::topk;

using Count = unsigned long long;
constexpr unsigned kBins = 2048;
constexpr unsigned kHistogramThreads = 512;
constexpr std::uint64_t kHistogramValues = 16384;  // of a block

// How many values this block has.
template <std::uint64_t kValues>
__device__ __forceinline__ std::uint32_t count_in(std::uint64_t elements) {
    const std::uint64_t left = elements - blockIdx.x * kValues;
    return static_cast<std::uint32_t>(left < kValues ? left : kValues);
}

// A digit of a magnitude's bits, and the digits above it.
struct Digit {
    unsigned shift, width;
    __device__ std::uint32_t of(std::uint32_t bits) const { return bits >> shift & ((1U << width) - 1); }
    __device__ std::uint32_t above(std::uint32_t bits) const { return bits >> shift >> width; }
};

// Counts the digits of those magnitudes that begin with `prefix`. Zeros, which are never selected and may be
// half of all, do not count.
__global__ void __launch_bounds__(kHistogramThreads)
    count_digits(const float* values, std::uint64_t elements, Digit digit, std::uint32_t prefix,
                 Count* counts) {
    auto* shared = shared_memory<unsigned>();
    for (unsigned bin = threadIdx.x; bin < kBins; bin += blockDim.x) shared[bin] = 0;
    __syncthreads();
    const std::uint64_t begin = blockIdx.x * kHistogramValues;
    for_each_ahead(
        threadIdx.x, count_in<kHistogramValues>(elements), blockDim.x,
        [&](std::uint32_t i) { return magnitude_bits(values[begin + i]); },
        [&](std::uint32_t, std::uint32_t bits) {
            if (bits != 0 && digit.above(bits) == prefix) atomicAdd(&shared[digit.of(bits)], 1U);
        });
    __syncthreads();
    for (unsigned bin = threadIdx.x; bin < kBins; bin += blockDim.x) {
        if (shared[bin] != 0) atomicAdd(&counts[bin], Count{shared[bin]});
    }
}

// Magnitudes above `bits` are selected, and the first `equal` of those with just these bits.
struct Threshold {
    std::uint32_t bits = 0;
    std::uint64_t equal = 0;
};

__global__ void count_equal(const float* values, std::uint64_t elements, std::uint32_t threshold,
                            unsigned* equal) {
    auto* shared = shared_memory<unsigned>();
    if (threadIdx.x == 0) *shared = 0;
    __syncthreads();
    const std::uint64_t begin = blockIdx.x * codec::kSegmentValues;
    unsigned own = 0;
    for_each_ahead(
        threadIdx.x, count_in<codec::kSegmentValues>(elements), blockDim.x,
        [&](std::uint32_t i) { return magnitude_bits(values[begin + i]); },
        [&](std::uint32_t, std::uint32_t bits) { own += bits == threshold ? 1 : 0; });
    if (own != 0) atomicAdd(shared, own);
    __syncthreads();
    if (threadIdx.x == 0) equal[blockIdx.x] = *shared;
}

struct Data {
    const float* sent;
    float* decoded;
    std::uint64_t elements;
    std::uint32_t* indices;  // (N)
    std::uint8_t* payloads;
    std::size_t pitch;
    Place* places;
};

__global__ void __launch_bounds__(kSegmentThreads)
    code_segment(Data data, std::uint32_t threshold, const Equals* equals, codec::TopKValues kind) {
    auto* shared = shared_memory<SegmentShared>();
    const std::uint64_t first = blockIdx.x * codec::kSegmentValues;
    const auto count = count_in<codec::kSegmentValues>(data.elements);
    std::uint32_t* const indices = data.indices + first;
    const std::uint32_t taken =
        select(data.sent + first, count, threshold, equals[blockIdx.x], indices, shared);
    const unsigned shift = best_shift(indices, taken, shared);
    const std::uint32_t gap_bytes = (code_gaps(indices, taken, shift, shared) + 7) / 8;
    std::uint8_t* const to = data.payloads + std::size_t{blockIdx.x} * data.pitch;
    if (threadIdx.x == 0) {
        put_u16(to, static_cast<std::uint16_t>(taken & 0xFFFF));
        put_u16(to + 2, static_cast<std::uint16_t>(taken >> 16));
        to[4] = static_cast<std::uint8_t>(shift);
        data.places[blockIdx.x] = {
            0, static_cast<std::uint32_t>(topk::kCountBytes) + gap_bytes + value_bytes(kind, taken)};
    }
    std::uint8_t* const gaps = to + topk::kCountBytes;
    for (std::uint32_t i = threadIdx.x; i < gap_bytes; i += kSegmentThreads)
        gaps[i] = static_cast<std::uint8_t>(shared->gap_bits[i / 4] >> (8 * (i % 4)) & 0xFF);
    const Selected selected{data.sent + first, data.decoded + first, indices, taken};
    kind == codec::TopKValues::Bf16 ? code_bf16(selected, gaps + gap_bytes)
                                    : code_int4(selected, gaps + gap_bytes);
}

class TopK final : public Coder {
public:
    explicit TopK(const codec::Layout& layout)
        : counts_(kBins),
          equal_(codec::segments_of(layout.elements)),
          equals_(equal_.size()),
          places_(equal_.size()),
          indices_(layout.elements) {}

    std::size_t payload_bytes_most(std::size_t values) const override {
        return topk::segment_bytes(values).most - codec::kSegmentHeadBytes;
    }
    std::vector<std::byte> encode(const Task& task) override;

private:
    Threshold find_threshold(const Task& task);
    void share_equals(const Task& task, Threshold threshold);

    DeviceBuffer<Count> counts_;
    DeviceBuffer<unsigned> equal_;  // this and the next two by segment
    DeviceBuffer<Equals> equals_;
    DeviceBuffer<Place> places_;
    DeviceBuffer<std::uint32_t> indices_;  // of what is selected, from each segment's first element on
};

Threshold TopK::find_threshold(const Task& task) {
    constexpr Digit kDigits[] = {{20, 11}, {10, 10}, {0, 10}};
    Threshold found{0, topk::selected_of(task.spec, task.layout.elements)};
    if (task.layout.elements - task.measure.zeros < found.equal) return {0, 0};  // all but the zeros
    for (const Digit& digit : kDigits) {
        fill_bytes(task.stream, counts_.data(), 0, counts_.bytes());
        launch(task.stream,
               {.grid = {blocks_for(task.layout.elements, kHistogramValues)},
                .threads = kHistogramThreads,
                .shared_bytes = kBins * sizeof(unsigned)},
               count_digits, task.sent, task.layout.elements, digit, found.bits, counts_.data());
        const std::vector<Count> counts = download(task.stream, counts_.data(), kBins);
        std::uint32_t bin = kBins - 1;
        for (; bin > 0 && counts[bin] < found.equal; --bin) found.equal -= counts[bin];
        found.bits = found.bits << digit.width | bin;
    }
    return found;
}

// The lowest indices win: earlier segments first.
void TopK::share_equals(const Task& task, Threshold threshold) {
    launch(task.stream,
           {.grid = {static_cast<unsigned>(equal_.size())}, .threads = 512, .shared_bytes = sizeof(unsigned)},
           count_equal, task.sent, task.layout.elements, threshold.bits, equal_.data());
    std::vector<Equals> shares;
    for (const unsigned all : download(task.stream, equal_.data(), equal_.size())) {
        const auto selected = static_cast<unsigned>(std::min<std::uint64_t>(all, threshold.equal));
        shares.push_back({all, selected});
        threshold.equal -= selected;
    }
    upload<Equals>(task.stream, equals_, shares);
}

std::vector<std::byte> TopK::encode(const Task& task) {
    const Threshold threshold = find_threshold(task);
    share_equals(task, threshold);
    fill_bytes(task.stream, task.decoded, 0, task.layout.elements * sizeof(float));
    const Data data{task.sent,
                    task.decoded,
                    task.layout.elements,
                    indices_.data(),
                    task.payloads->bytes.data(),
                    task.payloads->pitch,
                    places_.data()};
    launch(task.stream,
           {.grid = {static_cast<unsigned>(places_.size())},
            .threads = kSegmentThreads,
            .shared_bytes = sizeof(SegmentShared)},
           code_segment, data, threshold.bits, equals_.data(), task.spec.topk_values);
    task.payloads->places = download(task.stream, places_.data(), places_.size());
    const auto parameters = topk::parameters_of(task.spec);
    return {parameters.begin(), parameters.end()};
}

}  // namespace

std::unique_ptr<Coder> make_topk(const codec::Layout& layout) { return std::make_unique<TopK>(layout); }

}  // namespace fedllm::kernels::cuda::compress
