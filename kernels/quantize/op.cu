#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/rows.cuh"
#include "kernels/quantize/code_books.hpp"
#include "kernels/quantize/op_cuda.hpp"

namespace fedllm::kernels::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kEightsPerThread = 4;  // whose codes a thread has in flight together

// A WeightView as kernels read it. FP4 is NF4 with another book.
struct Source {
    const void* data;
    const float* scales;
    std::size_t rows, cols;
    unsigned block_shift;  // log2 of the elements under a scale
    float book[kFourBitCodes];
};

// Elements [8 index, 8 index + 8) as they are stored.
template <WeightType kType>
__device__ __forceinline__ auto load_stored(const void* data, std::size_t index) {
    if constexpr (kType == WeightType::F32)
        return load_eight(static_cast<const float*>(data) + kEight * index);
    if constexpr (kType == WeightType::BF16)
        return load_eight(static_cast<const BF16*>(data) + kEight * index);
    if constexpr (kType == WeightType::Int8) return __ldg(static_cast<const uint2*>(data) + index);
    if constexpr (kType == WeightType::NF4) return __ldg(static_cast<const unsigned*>(data) + index);
}

__device__ __forceinline__ Eight decode(const EightFloats& floats, float, const float*) {
    return to_eight(floats);
}
__device__ __forceinline__ Eight decode(const Eight& values, float, const float*) { return values; }
__device__ __forceinline__ Eight decode(const uint2& codes, float scale, const float*) {
    EightFloats wide;
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) {
        const unsigned four = i < 4 ? codes.x : codes.y;
        wide.at[i] = static_cast<float>(static_cast<std::int8_t>(four >> (8 * (i % 4)) & 0xFF)) * scale;
    }
    return to_eight(wide);
}
__device__ __forceinline__ Eight decode(unsigned codes, float scale, const float* book) {
    EightFloats wide;
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i)  // of a byte the high nibble comes first
        wide.at[i] = book[codes >> (4 * (i ^ 1)) & 15] * scale;
    return to_eight(wide);
}

template <WeightType kType>
__device__ __forceinline__ float scale_of(const Source& from, std::size_t row, std::size_t element) {
    if constexpr (kType == WeightType::Int8) return __ldg(from.scales + row);
    if constexpr (kType == WeightType::NF4) return __ldg(from.scales + (element >> from.block_shift));
    return 1.0f;
}

template <WeightType kType>
__device__ __forceinline__ BF16 read_one(const Source& from, std::size_t row, std::size_t element,
                                         const float* book) {
    const float scale = scale_of<kType>(from, row, element);
    if constexpr (kType == WeightType::F32) {
        return from_float<BF16>(static_cast<const float*>(from.data)[element]);
    } else if constexpr (kType == WeightType::BF16) {
        return static_cast<const BF16*>(from.data)[element];
    } else if constexpr (kType == WeightType::Int8) {
        const std::int8_t code = static_cast<const std::int8_t*>(from.data)[element];
        return from_float<BF16>(static_cast<float>(code) * scale);
    } else {
        const unsigned pair = static_cast<const std::uint8_t*>(from.data)[element / 2];
        return from_float<BF16>(book[element % 2 == 0 ? pair >> 4 : pair & 15] * scale);
    }
}

// Columns [column, column + 8) of a row, zeros beyond its end. Where rows are whole eights every eight is
// aligned and under one scale.
template <WeightType kType>
__device__ __forceinline__ Eight read_eight(const Source& from, std::size_t row, std::size_t column,
                                            const float* book) {
    const std::size_t first = row * from.cols + column;
    if (from.cols % kEight == 0)
        return decode(load_stored<kType>(from.data, first / kEight), scale_of<kType>(from, row, first), book);
    Eight values{};
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) {
        if (column + i >= from.cols) continue;
        const unsigned bits = read_one<kType>(from, row, first + i, book).bits;
        values.pairs[i / 2] |= bits << (16 * (i % 2));
    }
    return values;
}

// In shared memory: 16 floats in 16 banks, where lanes that look up different codes do not meet.
__device__ __forceinline__ const float* share_book(const Source& from) {
    auto* book = shared_memory<float>();
    if (threadIdx.x < kFourBitCodes) {
        FEDLLM_UNROLL
        for (unsigned code = 0; code < kFourBitCodes; ++code) {  // a parameter has no address to index
            if (threadIdx.x == code) book[code] = from.book[code];
        }
    }
    __syncthreads();
    return book;
}

// Rows that are whole eights. Neighbours take neighbouring eights, so that a warp loads and stores whole
// lines: 4 bytes of 4-bit codes and 16 of values a lane, four times.
template <WeightType kType>
__global__ void __launch_bounds__(kThreads)
    dequantize_eights(Source from, unsigned eights, unsigned eights_per_row, BF16* to, std::size_t gap) {
    const float* book = share_book(from);
    const unsigned first = blockIdx.x * (kThreads * kEightsPerThread) + threadIdx.x;
    decltype(load_stored<kType>(from.data, 0)) stored[kEightsPerThread];
    float scale[kEightsPerThread];
    unsigned row[kEightsPerThread];
    FEDLLM_UNROLL
    for (unsigned j = 0; j < kEightsPerThread; ++j) {
        // Beyond the end the last is read again: loads without a branch go out together.
        const unsigned index = first + j * kThreads < eights ? first + j * kThreads : eights - 1;
        row[j] = index / eights_per_row;
        stored[j] = load_stored<kType>(from.data, index);
        scale[j] = scale_of<kType>(from, row[j], std::size_t{index} * kEight);
    }
    FEDLLM_UNROLL
    for (unsigned j = 0; j < kEightsPerThread; ++j) {
        // Beyond the end the last is read again: loads without a branch go out together.
        const unsigned index = first + j * kThreads < eights ? first + j * kThreads : eights - 1;
        store_eight(to + std::size_t{index} * kEight + row[j] * gap, decode(stored[j], scale[j], book));
    }
}

// Any number of columns; a thread makes eight of a row.
template <WeightType kType>
__global__ void __launch_bounds__(kThreads)
    dequantize_odd_rows(Source from, std::size_t eights_per_row, MatrixView<BF16> to) {
    const float* book = share_book(from);
    const std::size_t index = std::size_t{blockIdx.x} * kThreads + threadIdx.x;
    const std::size_t row = index / eights_per_row, column = (index - row * eights_per_row) * kEight;
    if (row >= from.rows) return;
    store_eight(to.data + row * to.pitch + column, read_eight<kType>(from, row, column, book),
                static_cast<unsigned>(from.cols - column));
}

constexpr unsigned kTile = 64;
constexpr unsigned kTileEights = kTile / kEight;
constexpr unsigned kTileWords = kTile / 2 + 1;  // odd: rows start in different banks

// to = the transpose of from, by tiles of 64 x 64.
template <WeightType kType>
__global__ void __launch_bounds__(kThreads)
    dequantize_turned(Source from, unsigned tiles_per_row, MatrixView<BF16> to) {
    const float* book = share_book(from);
    auto* words = shared_memory<std::uint32_t>() + kFourBitCodes;
    const std::size_t first_row = std::size_t{blockIdx.x / tiles_per_row} * kTile;
    const std::size_t first_column = std::size_t{blockIdx.x % tiles_per_row} * kTile;
    for (unsigned index = threadIdx.x; index < kTile * kTileEights; index += kThreads) {
        const unsigned row = index / kTileEights, column = index % kTileEights * kEight;
        if (first_row + row >= from.rows || first_column + column >= from.cols) continue;
        const Eight values = read_eight<kType>(from, first_row + row, first_column + column, book);
        FEDLLM_UNROLL
        for (unsigned i = 0; i < 4; ++i) words[row * kTileWords + column / 2 + i] = values.pairs[i];
    }
    __syncthreads();
    for (unsigned index = threadIdx.x; index < kTile * kTileEights; index += kThreads) {
        const unsigned column = index / kTileEights, row = index % kTileEights * kEight;
        if (first_column + column >= from.cols || first_row + row >= from.rows) continue;
        Eight values{};
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kEight; ++i) {
            const unsigned pair = words[(row + i) * kTileWords + column / 2];
            values.pairs[i / 2] |= (pair >> (16 * (column % 2)) & 0xFFFF) << (16 * (i % 2));
        }
        store_eight(to.data + (first_column + column) * to.pitch + first_row + row, values,
                    static_cast<unsigned>(from.rows - first_row - row));
    }
}

template <WeightType kType>
void dequantize_as(const Stream& stream, const Source& from, DeviceMatrix to, bool turned) {
    constexpr std::size_t kBookBytes = sizeof(Source::book);
    constexpr std::size_t kTileBytes = kTile * kTileWords * sizeof(std::uint32_t);
    const std::size_t eights_per_row = (from.cols + kEight - 1) / kEight;
    const std::size_t eights = from.rows * eights_per_row;  // fewer than 2^32: 64 GiB of bf16
    if (turned) {
        const unsigned tiles = blocks_for(from.cols, kTile);
        const Grid grid{tiles * blocks_for(from.rows, kTile)};
        launch(stream, {.grid = grid, .threads = kThreads, .shared_bytes = kBookBytes + kTileBytes},
               dequantize_turned<kType>, from, tiles, to);
    } else if (from.cols % kEight == 0) {
        const Grid grid{blocks_for(eights, kThreads * kEightsPerThread)};
        launch(stream, {.grid = grid, .threads = kThreads, .shared_bytes = kBookBytes},
               dequantize_eights<kType>, from, static_cast<unsigned>(eights),
               static_cast<unsigned>(eights_per_row), to.data, to.pitch - from.cols);
    } else {
        const Grid grid{blocks_for(eights, kThreads)};
        launch(stream, {.grid = grid, .threads = kThreads, .shared_bytes = kBookBytes},
               dequantize_odd_rows<kType>, from, eights_per_row, to);
    }
}

}  // namespace

void dequantize(const Stream& stream, WeightView from, DeviceMatrix to, bool turned) {
    Source source{from.data, from.scales, from.rows, from.cols, 0, {}};
    while ((std::size_t{1} << source.block_shift) < from.block) ++source.block_shift;
    const auto& book = from.type == WeightType::FP4 ? kFp4Values : kNf4Values;
    for (std::size_t code = 0; code < kFourBitCodes; ++code) source.book[code] = book[code];
    switch (from.type) {
        case WeightType::F32: return dequantize_as<WeightType::F32>(stream, source, to, turned);
        case WeightType::BF16: return dequantize_as<WeightType::BF16>(stream, source, to, turned);
        case WeightType::Int8: return dequantize_as<WeightType::Int8>(stream, source, to, turned);
        case WeightType::NF4:
        case WeightType::FP4: return dequantize_as<WeightType::NF4>(stream, source, to, turned);
    }
}

}  // namespace fedllm::kernels::cuda
