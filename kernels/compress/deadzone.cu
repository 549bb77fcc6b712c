// `deadzone` on the GPU: levels and their statistics in one pass, tables on the host, rANS by one warp a
// segment (its 32 lanes are the stream's).
#include "common/codec/deadzone.hpp"

#include <cmath>

#include "common/codec/deadzone_kernels.hpp"
#include "common/codec/deadzone_step.hpp"
#include "kernels/compress/ahead.cuh"
#include "kernels/compress/coder.hpp"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"

namespace fedllm::kernels::cuda::compress {
namespace {

namespace deadzone = codec::deadzone;
namespace rans = codec::rans;

using Count = unsigned long long;
constexpr unsigned kMagnitudes = deadzone::kLevelMax + 1;
constexpr unsigned kCounters = kMagnitudes + deadzone::kOffsets;  // of a group, as deadzone::Statistics
static_assert(sizeof(deadzone::Statistics) == kCounters * sizeof(Count));
constexpr unsigned kThreads = 256;
constexpr unsigned kValues = 256;  // of a group's table, by level + kLevelBias

__global__ void gather(const float* values, deadzone::SamplePlan plan, float* sample) {
    const std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (i < plan.count) sample[i] = values[plan.element_of(i)];
}

__device__ __forceinline__ int warp_total(int value) {
    for (unsigned apart = kWarp / 2; apart > 0; apart /= 2) value += __shfl_xor_sync(kFullMask, value, apart);
    return value;
}

// Counts of a block's piece, first in shared memory; they are integers, so that order does not matter.
struct PieceCounts {
    unsigned counts[kMagnitudes];
    int offset_sums[deadzone::kOffsets];  // of at most 8192 numbers of 8 bits
};

// A block a piece. Small magnitudes are most of all, so each thread counts them for itself.
__global__ void __launch_bounds__(kThreads)
    quantize(const Piece* pieces, const float* values, float inverse_step, std::int8_t* levels,
             Count* statistics) {
    constexpr int kOwn = 4;
    auto* shared = shared_memory<PieceCounts>();
    auto* flat = shared_memory<unsigned>();
    const Piece piece = pieces[blockIdx.x];
    for (unsigned i = threadIdx.x; i < kCounters; i += blockDim.x) flat[i] = 0;
    __syncthreads();
    int own[kOwn] = {}, sums[deadzone::kOffsets] = {};
    const auto take = [&](std::uint32_t i, float value) {
        const int level = deadzone::level_of(value, inverse_step);
        const int magnitude = level < 0 ? -level : level;
        levels[piece.first + i] = static_cast<std::int8_t>(level);
        const int offset = deadzone::offset_of(value, inverse_step, magnitude);
#pragma unroll
        for (int m = 0; m < kOwn; ++m) own[m] += magnitude == m ? 1 : 0;
#pragma unroll
        for (int c = 0; c < 3; ++c) sums[c] += magnitude == c + 1 ? offset : 0;
        sums[3] += magnitude > 3 ? offset : 0;
        if (magnitude >= kOwn) atomicAdd(&shared->counts[magnitude], 1U);
    };
    for_each_ahead(
        threadIdx.x, piece.count, blockDim.x, [&](std::uint32_t i) { return values[piece.first + i]; }, take);
    for (int m = 0; m < kOwn; ++m) {
        const int all = warp_total(own[m]), sum = warp_total(sums[m]);
        if (threadIdx.x % kWarp != 0) continue;
        atomicAdd(&shared->counts[m], static_cast<unsigned>(all));
        atomicAdd(&shared->offset_sums[m], sum);
    }
    __syncthreads();
    Count* const group = statistics + std::size_t{piece.group} * kCounters;
    for (unsigned i = threadIdx.x; i < kCounters; i += blockDim.x) {
        const Count add =
            i < kMagnitudes
                ? shared->counts[i]
                : static_cast<Count>(static_cast<long long>(shared->offset_sums[i - kMagnitudes]));
        if (add != 0) atomicAdd(&group[i], add);
    }
}

// What a lane needs of its level in a row; a frequency of 0 where it has none.
struct Row {
    std::uint32_t range = 0, reciprocal = 0;
};
__device__ __forceinline__ Row row_of(const std::int8_t* levels, const deadzone::EncodeTable* table,
                                      int count, int row) {
    const int i = row * static_cast<int>(kWarp) + static_cast<int>(threadIdx.x);
    if (row < 0 || i >= count) return {};
    const int index = levels[i] + deadzone::kLevelBias;
    return {table->range.data()[index], table->reciprocal.data()[index]};
}

// Codes a row: words of the lanes that give one up, the lowest lane's lowest.
__device__ __forceinline__ void code_row(const Row& row, std::uint32_t& state, std::uint16_t*& top) {
    const rans::Symbol symbol{row.range & 0xFFFF, row.range >> 16, row.reciprocal};
    const bool active = symbol.frequency != 0;
    const bool emits = active && rans::must_emit(state, symbol.frequency);
    const unsigned emitting = __ballot_sync(kFullMask, emits);
    top -= __popc(emitting);
    if (emits) {
        top[__popc(emitting & ((1U << threadIdx.x) - 1))] = static_cast<std::uint16_t>(state & 0xFFFF);
        state >>= rans::kWordBits;
    }
    if (active) state = rans::put(state, symbol);
}

// A warp a segment, backwards. The table look-ups of rows to come do not wait for the states.
__global__ void __launch_bounds__(kWarp)
    code(const Piece* pieces, const std::uint32_t* begins, const std::uint8_t* coded,
         const std::int8_t* levels, const deadzone::EncodeTable* tables, std::uint8_t* payloads,
         std::size_t pitch, Place* places) {
    constexpr int kAhead = 8;
    std::uint8_t* const room = payloads + std::size_t{blockIdx.x} * pitch;
    auto* top = reinterpret_cast<std::uint16_t*>(room + pitch);
    std::uint32_t state = rans::kStateMin;
    bool any = false;
    for (std::uint32_t p = begins[blockIdx.x + 1]; p-- > begins[blockIdx.x];) {
        const Piece piece = pieces[p];
        if (coded[piece.group] == 0) continue;
        any = true;
        const std::int8_t* const from = levels + piece.first;
        const deadzone::EncodeTable* const table = tables + piece.group;
        const auto count = static_cast<int>(piece.count);
        int row = (count + static_cast<int>(kWarp) - 1) / static_cast<int>(kWarp) - 1;
        Row now[kAhead], next[kAhead];
#pragma unroll
        for (int j = 0; j < kAhead; ++j) now[j] = row_of(from, table, count, row - j);
        for (; row >= 0; row -= kAhead) {
#pragma unroll
            for (int j = 0; j < kAhead; ++j) next[j] = row_of(from, table, count, row - kAhead - j);
#pragma unroll
            for (int j = 0; j < kAhead; ++j) code_row(now[j], state, top);
#pragma unroll
            for (int j = 0; j < kAhead; ++j) now[j] = next[j];
        }
    }
    Place place;
    if (any) {
        top -= 2 * kWarp;
        top[2 * threadIdx.x] = static_cast<std::uint16_t>(state & 0xFFFF);
        top[2 * threadIdx.x + 1] = static_cast<std::uint16_t>(state >> 16);
        place.begin = static_cast<std::uint32_t>(reinterpret_cast<std::uint8_t*>(top) - room);
        place.size = static_cast<std::uint32_t>(pitch) - place.begin;
    }
    if (threadIdx.x == 0) places[blockIdx.x] = place;
}

__global__ void decode(const Piece* pieces, const std::int8_t* levels, const float* values, float* decoded) {
    const Piece piece = pieces[blockIdx.x];
    const float* const table = values + std::size_t{piece.group} * kValues + deadzone::kLevelBias;
    for_each_ahead(
        threadIdx.x, piece.count, blockDim.x, [&](std::uint32_t i) { return table[levels[piece.first + i]]; },
        [&](std::uint32_t i, float value) { decoded[piece.first + i] = value; });
}

class Deadzone final : public Coder {
public:
    explicit Deadzone(const codec::Layout& layout)
        : pieces_(make_pieces(layout)),
          sample_(deadzone::SamplePlan(layout.elements).count),
          levels_(layout.elements),
          statistics_(layout.groups),
          coded_(layout.groups),
          tables_(layout.groups),
          values_(std::size_t{layout.groups} * kValues),
          places_(codec::segments_of(layout.elements)) {}

    std::size_t payload_bytes_most(std::size_t values) const override {
        return sizeof(deadzone::States) + sizeof(std::uint16_t) * values;
    }
    std::vector<std::byte> encode(const Task& task) override;

private:
    float step_for(const Task& task);
    std::vector<deadzone::Table> quantize_all(const Task& task, float step);
    void upload_tables(const Stream& stream, float step, std::span<const deadzone::Table> tables);
    Launch a_block_a_piece(std::size_t shared_bytes) const {
        return {.grid = {static_cast<unsigned>(pieces_.pieces.size())},
                .threads = kThreads,
                .shared_bytes = shared_bytes};
    }

    PieceList pieces_;
    DeviceBuffer<float> sample_;
    DeviceBuffer<std::int8_t> levels_;               // (N)
    DeviceBuffer<deadzone::Statistics> statistics_;  // all by group
    DeviceBuffer<std::uint8_t> coded_;               // whether it is in the stream
    DeviceBuffer<deadzone::EncodeTable> tables_;
    DeviceBuffer<float> values_;  // kValues each
    DeviceBuffer<Place> places_;  // by segment
};

float Deadzone::step_for(const Task& task) {
    const auto elements = static_cast<double>(task.layout.elements);
    deadzone::Size size;
    if (task.layout.elements > 0) size = {std::sqrt(task.measure.squares / elements), task.measure.largest};
    std::vector<float> sample;
    if (deadzone::needs_sample(task.spec, size)) {
        const deadzone::SamplePlan plan(task.layout.elements);
        launch(task.stream, {.grid = {blocks_for(plan.count, kThreads)}, .threads = kThreads}, gather,
               task.sent, plan, sample_.data());
        sample = download(task.stream, sample_.data(), sample_.size());
    }
    return deadzone::choose_step(task.spec, task.layout, size, sample);
}

std::vector<deadzone::Table> Deadzone::quantize_all(const Task& task, float step) {
    fill_bytes(task.stream, statistics_.data(), 0, statistics_.bytes());
    launch(task.stream, a_block_a_piece(sizeof(PieceCounts)), quantize, pieces_.pieces.data(), task.sent,
           1.0f / step, levels_.data(), reinterpret_cast<Count*>(statistics_.data()));
    std::vector<deadzone::Table> tables;
    for (const deadzone::Statistics& group : download(task.stream, statistics_.data(), statistics_.size()))
        tables.push_back(deadzone::make_table(group));
    return tables;
}

void Deadzone::upload_tables(const Stream& stream, float step, std::span<const deadzone::Table> tables) {
    std::vector<std::uint8_t> coded;
    std::vector<deadzone::EncodeTable> encode(tables.size());
    std::vector<float> values(tables.size() * kValues);
    for (std::size_t group = 0; group < tables.size(); ++group) {
        const deadzone::Table& table = tables[group];
        coded.push_back(table.magnitude_max > 0 ? 1 : 0);
        deadzone::expand(table, encode[group]);
        for (int level = -table.magnitude_max; level <= table.magnitude_max; ++level) {
            const auto index = static_cast<std::size_t>(level + deadzone::kLevelBias);
            values[group * kValues + index] = table.value(level, step);
        }
    }
    upload<std::uint8_t>(stream, coded_, coded);
    upload<deadzone::EncodeTable>(stream, tables_, encode);
    upload<float>(stream, values_, values);
}

std::vector<std::byte> Deadzone::encode(const Task& task) {
    const float step = step_for(task);
    Payloads& payloads = *task.payloads;
    if (step == 0) {
        fill_bytes(task.stream, task.decoded, 0, task.layout.elements * sizeof(float));
        std::ranges::fill(payloads.places, Place{});
        return deadzone::write_parameters(0, {});
    }
    const std::vector<deadzone::Table> tables = quantize_all(task, step);
    upload_tables(task.stream, step, tables);
    launch(task.stream, {.grid = {static_cast<unsigned>(places_.size())}, .threads = kWarp}, code,
           pieces_.pieces.data(), pieces_.begins.data(), coded_.data(), levels_.data(), tables_.data(),
           payloads.bytes.data(), payloads.pitch, places_.data());
    launch(task.stream, a_block_a_piece(0), decode, pieces_.pieces.data(), levels_.data(), values_.data(),
           task.decoded);
    payloads.places = download(task.stream, places_.data(), places_.size());
    return deadzone::write_parameters(step, tables);
}

}  // namespace

std::unique_ptr<Coder> make_deadzone(const codec::Layout& layout) {
    return std::make_unique<Deadzone>(layout);
}

}  // namespace fedllm::kernels::cuda::compress
