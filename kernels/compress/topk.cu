// `topk` on the GPU: the threshold by radix select, digits of 11, 10 and 10 bits, highest first; then a block
// a segment finds what is selected in order of its index, and codes it.
#include "common/codec/topk.hpp"

#include "kernels/compress/block_levels.cuh"
#include "kernels/compress/coder.hpp"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"

namespace fedllm::kernels::cuda::compress {
namespace {

namespace blocks = codec::blocks;
namespace topk = codec::topk;

using Count = unsigned long long;
constexpr unsigned kBins = 2048;
constexpr unsigned kHistogramThreads = 512;
constexpr std::uint64_t kHistogramValues = 16384;  // of a block
constexpr unsigned kSegmentThreads = 512;
constexpr unsigned kSegmentWarps = kSegmentThreads / kWarp;

__device__ __forceinline__ std::uint32_t magnitude_bits(float value) {
    return __float_as_uint(value) & 0x7FFFFFFF;
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
    const std::uint64_t end = begin + kHistogramValues < elements ? begin + kHistogramValues : elements;
#pragma unroll 8
    for (std::uint64_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
        const std::uint32_t bits = magnitude_bits(values[i]);
        if (bits != 0 && digit.above(bits) == prefix) atomicAdd(&shared[digit.of(bits)], 1U);
    }
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
    const std::uint64_t end =
        begin + codec::kSegmentValues < elements ? begin + codec::kSegmentValues : elements;
    unsigned own = 0;
#pragma unroll 8
    for (std::uint64_t i = begin + threadIdx.x; i < end; i += blockDim.x)
        own += magnitude_bits(values[i]) == threshold ? 1 : 0;
    if (own != 0) atomicAdd(shared, own);
    __syncthreads();
    if (threadIdx.x == 0) equal[blockIdx.x] = *shared;
}

// How many of a segment's values with the threshold's magnitude there are, and how many are selected.
struct Equals {
    unsigned all, selected;
};

constexpr unsigned kShifts = topk::kShiftMax + 1;
constexpr unsigned kGapWords = codec::kSegmentValues / 32;  // gaps take a bit a value at most

struct SegmentShared {
    std::uint32_t gap_bits[kGapWords + 1];
    std::uint32_t warp_sums[kSegmentWarps];
    std::uint32_t shifted[kShifts];  // the sum of all gaps >> shift
};

// The sum of what the threads before this one bring, and of all. Barriers around it.
__device__ __forceinline__ std::uint32_t sum_before(std::uint32_t value, std::uint32_t* warp_sums,
                                                    std::uint32_t& all) {
    const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    std::uint32_t sum = value;
    for (unsigned apart = 1; apart < kWarp; apart *= 2) {
        const std::uint32_t other = __shfl_up_sync(kFullMask, sum, apart);
        if (lane >= apart) sum += other;
    }
    if (lane == kWarp - 1) warp_sums[warp] = sum;
    __syncthreads();
    std::uint32_t before = 0;
    all = 0;
    for (unsigned w = 0; w < kSegmentWarps; ++w) {
        before += w < warp ? warp_sums[w] : 0;
        all += warp_sums[w];
    }
    __syncthreads();
    return before + sum - value;
}

// Writes the indices of what is selected, in order; returns how many there are.
__device__ std::uint32_t select(const float* values, std::uint32_t count, std::uint32_t threshold,
                                Equals equals, std::uint32_t* indices, SegmentShared* shared) {
    const bool some = equals.selected > 0 && equals.selected < equals.all;  // in few segments, if any
    std::uint32_t taken = 0, equals_before = 0;
    for (std::uint32_t tile = 0; tile < count; tile += kSegmentThreads) {
        const std::uint32_t i = tile + threadIdx.x;
        const std::uint32_t bits = i < count ? magnitude_bits(values[i]) : 0;
        const bool is_equal = threshold > 0 && bits == threshold;
        bool take_equal = equals.selected > 0;
        std::uint32_t all = 0;
        if (some) {
            const std::uint32_t rank = sum_before(is_equal ? 1 : 0, shared->warp_sums, all);
            take_equal = equals_before + rank < equals.selected;
            equals_before += all;
        }
        const bool taking = bits > threshold || (is_equal && take_equal);
        const std::uint32_t rank = sum_before(taking ? 1 : 0, shared->warp_sums, all);
        if (taking) indices[taken + rank] = i;
        taken += all;
    }
    __syncthreads();
    return taken;
}

__device__ __forceinline__ std::uint32_t gap_of(const std::uint32_t* indices, std::uint32_t j) {
    return indices[j] - (j > 0 ? indices[j - 1] + 1 : 0);
}

// The shift that makes the gaps shortest, the lowest of equals.
__device__ unsigned best_shift(const std::uint32_t* indices, std::uint32_t taken, SegmentShared* shared) {
    if (threadIdx.x < kShifts) shared->shifted[threadIdx.x] = 0;
    __syncthreads();
    std::uint32_t own[kShifts] = {};
    for (std::uint32_t j = threadIdx.x; j < taken; j += kSegmentThreads) {
        const std::uint32_t gap = gap_of(indices, j);
#pragma unroll
        for (unsigned shift = 0; shift < kShifts; ++shift) own[shift] += gap >> shift;
    }
#pragma unroll
    for (unsigned shift = 0; shift < kShifts; ++shift) {
        for (unsigned apart = kWarp / 2; apart > 0; apart /= 2)
            own[shift] += __shfl_xor_sync(kFullMask, own[shift], apart);
        if (threadIdx.x % kWarp == 0) atomicAdd(&shared->shifted[shift], own[shift]);
    }
    __syncthreads();
    unsigned best = 0;
    for (unsigned shift = 1; shift < kShifts; ++shift) {
        if (taken * (1 + shift) + shared->shifted[shift] < taken * (1 + best) + shared->shifted[best])
            best = shift;
    }
    return best;
}

// `count` (<= 32) bits into words that are zero there.
__device__ __forceinline__ void put_bits(std::uint32_t* words, std::uint32_t at, std::uint32_t value,
                                         unsigned count) {
    if (count == 0) return;
    const std::uint64_t shifted = std::uint64_t{value} << (at % 32);
    atomicOr(&words[at / 32], static_cast<std::uint32_t>(shifted));
    if (at % 32 + count > 32) atomicOr(&words[at / 32 + 1], static_cast<std::uint32_t>(shifted >> 32));
}

// Rice codes of all gaps, in shared memory; returns how many bits they take.
__device__ std::uint32_t code_gaps(const std::uint32_t* indices, std::uint32_t taken, unsigned shift,
                                   SegmentShared* shared) {
    for (std::uint32_t word = threadIdx.x; word <= kGapWords; word += kSegmentThreads)
        shared->gap_bits[word] = 0;
    __syncthreads();
    std::uint32_t written = 0;
    for (std::uint32_t tile = 0; tile < taken; tile += kSegmentThreads) {
        const std::uint32_t j = tile + threadIdx.x;
        const std::uint32_t gap = j < taken ? gap_of(indices, j) : 0;
        std::uint32_t all = 0;
        std::uint32_t at =
            written + sum_before(j < taken ? (gap >> shift) + 1 + shift : 0, shared->warp_sums, all);
        written += all;
        if (j >= taken) continue;
        for (std::uint32_t ones = gap >> shift; ones > 0;) {
            const unsigned some = ones < 32 ? ones : 32;
            put_bits(shared->gap_bits, at, some == 32 ? 0xFFFFFFFF : (1U << some) - 1, some);
            at += some;
            ones -= some;
        }
        put_bits(shared->gap_bits, at + 1, gap & ((1U << shift) - 1), shift);
    }
    __syncthreads();
    return written;
}

struct Selected {
    const float* values;           // of the segment, as all here
    float* decoded;                // zero where nothing is selected
    const std::uint32_t* indices;  // (taken)
    std::uint32_t taken;
};

__device__ void code_bf16(const Selected& from, std::uint8_t* to) {
    for (std::uint32_t j = threadIdx.x; j < from.taken; j += kSegmentThreads) {
        const std::uint16_t bits = blocks::bf16_nearest(from.values[from.indices[j]]);
        put_u16(to + 2 * std::size_t{j}, bits);
        from.decoded[from.indices[j]] = blocks::bf16_value(bits);
    }
}

__device__ void code_int4(const Selected& from, std::uint8_t* to) {
    constexpr unsigned kBlockBytes = 2 + blocks::kBlockValues / 2;
    constexpr unsigned kBlock = blocks::kBlockValues;
    const unsigned lane = threadIdx.x % kWarp;
    for (unsigned block = threadIdx.x / kWarp; block * kBlock < from.taken; block += kSegmentWarps) {
        const std::uint32_t j = block * kBlock + 2 * lane;
        const bool has_low = j < from.taken, has_high = j + 1 < from.taken;
        const std::uint32_t low_at = has_low ? from.indices[j] : 0;
        const std::uint32_t high_at = has_high ? from.indices[j + 1] : 0;
        const float low = has_low ? from.values[low_at] : 0.0f;
        const float high = has_high ? from.values[high_at] : 0.0f;
        const BlockScale scale = block_scale(low, high, blocks::kInt4Levels);
        if (lane == 0) put_u16(to + block * kBlockBytes, scale.bits);
        if (!has_low) continue;
        const int low_level = blocks::level_nearest(low, scale.inverse, blocks::kInt4Levels);
        const int high_level = blocks::level_nearest(high, scale.inverse, blocks::kInt4Levels);
        to[block * kBlockBytes + 2 + lane] = int4_pair(low_level, high_level, has_high);
        from.decoded[low_at] = static_cast<float>(low_level) * scale.value;
        if (has_high) from.decoded[high_at] = static_cast<float>(high_level) * scale.value;
    }
}

__device__ __forceinline__ std::uint32_t value_bytes(codec::TopKValues kind, std::uint32_t count) {
    if (kind == codec::TopKValues::Bf16) return 2 * count;
    const auto block = static_cast<std::uint32_t>(blocks::kBlockValues);
    const std::uint32_t rest = count % block;
    return count / block * (2 + block / 2) + (rest > 0 ? 2 + (rest + 1) / 2 : 0);
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
    const std::uint64_t left = data.elements - first;
    const auto count =
        static_cast<std::uint32_t>(left < codec::kSegmentValues ? left : codec::kSegmentValues);
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
