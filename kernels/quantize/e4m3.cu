#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/rows.cuh"
#include "kernels/quantize/op_cuda.hpp"

namespace fedllm::kernels::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / kWarp;
constexpr unsigned kSixteen = 16;  // codes in 16 bytes

// Eight columns of a row, zeros beyond its end, of which nothing is read.
__device__ __forceinline__ EightFloats load_columns(const BF16* row, std::size_t column, std::size_t cols) {
    if (column >= cols) return {};
    const std::size_t left = cols - column;
    return to_floats(load_eight(row + column, left < kEight ? static_cast<unsigned>(left) : kEight));
}
__device__ __forceinline__ float scale_for(float most) { return most == 0.0f ? 1.0f : most / kE4m3Max; }
__device__ __forceinline__ uint2 encode(const EightFloats& values, float scale) {
    const auto& at = values.at;
    return make_uint2(pack_e4m3(at[0] / scale, at[1] / scale) | pack_e4m3(at[2] / scale, at[3] / scale) << 16,
                      pack_e4m3(at[4] / scale, at[5] / scale) | pack_e4m3(at[6] / scale, at[7] / scale)
                                                                    << 16);
}

// A block per row, which it reads twice; the second time from its cache.
__global__ void __launch_bounds__(kThreads)
    quantize_row(ConstDeviceMatrix from, std::uint8_t* codes, std::size_t pitch, float* scales) {
    auto* most_of = shared_memory<float>();  // warps
    const BF16* row = from.data + blockIdx.x * from.pitch;
    float most = 0.0f;
    for (std::size_t column = threadIdx.x * kEight; column < from.cols; column += kThreads * kEight) {
        const EightFloats values = load_columns(row, column, from.cols);
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kEight; ++i) most = fmaxf(most, fabsf(values.at[i]));
    }
    most = warp_max(most);
    if (threadIdx.x % kWarp == 0) most_of[threadIdx.x / kWarp] = most;
    __syncthreads();
    const float scale = scale_for(warp_max(most_of[threadIdx.x % kWarps]));
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
    std::uint8_t* to = codes + blockIdx.x * pitch;
    for (std::size_t column = threadIdx.x * kSixteen; column < pitch; column += kThreads * kSixteen) {
        const uint2 low = encode(load_columns(row, column, from.cols), scale);
        const uint2 high = encode(load_columns(row, column + kEight, from.cols), scale);
        *reinterpret_cast<uint4*>(to + column) = make_uint4(low.x, low.y, high.x, high.y);
    }
}

constexpr unsigned kColumns = 32;                               // of `from` a block
constexpr unsigned kEights = kColumns / kEight;                 // of a row
constexpr unsigned kRowsPerTurn = kThreads / kEights;           // that a block reads together
constexpr unsigned kTileRows = kThreads / kColumns * kSixteen;  // whose codes it turns together
constexpr unsigned kTilePitch = kTileRows + 4;  // bytes: codes of columns 8 apart in other banks

// The largest |value| of each of 32 columns, to `most` in shared memory; `parts` is one row of it per warp.
__device__ __forceinline__ void find_largest(const ConstDeviceMatrix& from, std::size_t first_column,
                                             float (*parts)[kColumns], float* most) {
    const std::size_t column = first_column + threadIdx.x % kEights * kEight;
    EightFloats largest{};
    for (std::size_t turn = threadIdx.x / kEights; turn < from.rows; turn += 4 * kRowsPerTurn) {
        EightFloats values[4];  // together on their way
        FEDLLM_UNROLL
        for (unsigned j = 0; j < 4; ++j) {
            const std::size_t row = turn + j * kRowsPerTurn;
            values[j] = load_columns(from.data + row * from.pitch, column, row < from.rows ? from.cols : 0);
        }
        FEDLLM_UNROLL
        for (unsigned j = 0; j < 4; ++j) {
            FEDLLM_UNROLL
            for (unsigned i = 0; i < kEight; ++i)
                largest.at[i] = fmaxf(largest.at[i], fabsf(values[j].at[i]));
        }
    }
    const unsigned lane = threadIdx.x % kWarp;
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) {
        float value = largest.at[i];
        for (unsigned apart = kEights; apart < kWarp; apart *= 2)
            value = fmaxf(value, __shfl_xor_sync(kFullMask, value, apart));
        if (lane < kEights) parts[threadIdx.x / kWarp][lane * kEight + i] = value;
    }
    __syncthreads();
    if (threadIdx.x < kColumns) {
        float value = 0.0f;
        for (unsigned warp = 0; warp < kWarps; ++warp) value = fmaxf(value, parts[warp][threadIdx.x]);
        most[threadIdx.x] = value;
    }
    __syncthreads();
}

struct ColumnsShared {
    float parts[kWarps][kColumns];
    float most[kColumns];
    std::uint32_t codes[kColumns * kTilePitch / 4];  // bytes, four in a word
};

// A block per 32 columns, which it reads twice; their codes turn in shared memory.
__global__ void __launch_bounds__(kThreads)
    quantize_columns(ConstDeviceMatrix from, std::uint8_t* codes, std::size_t pitch, float* scales) {
    auto* shared = shared_memory<ColumnsShared>();
    const std::size_t first_column = std::size_t{blockIdx.x} * kColumns;
    find_largest(from, first_column, shared->parts, shared->most);
    if (threadIdx.x < kColumns && first_column + threadIdx.x < from.cols)
        scales[first_column + threadIdx.x] = scale_for(shared->most[threadIdx.x]);
    auto* bytes = reinterpret_cast<std::uint8_t*>(shared->codes);
    const unsigned eight = threadIdx.x % kEights * kEight;  // columns that this thread reads
    float scale[kEight];
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) scale[i] = scale_for(shared->most[eight + i]);
    const unsigned column = threadIdx.x / (kTileRows / kSixteen);  // and of which it writes 16 rows
    const unsigned sixteen = threadIdx.x % (kTileRows / kSixteen) * kSixteen;
    for (std::size_t first_row = 0; first_row < pitch; first_row += kTileRows) {
        FEDLLM_UNROLL
        for (unsigned row = threadIdx.x / kEights; row < kTileRows; row += kRowsPerTurn) {
            const std::size_t at = first_row + row;
            const EightFloats values = load_columns(from.data + at * from.pitch, first_column + eight,
                                                    at < from.rows ? from.cols : 0);
            FEDLLM_UNROLL
            for (unsigned i = 0; i < kEight; ++i) {
                bytes[(eight + i) * kTilePitch + row] =
                    static_cast<std::uint8_t>(pack_e4m3(values.at[i] / scale[i], 0.0f));
            }
        }
        __syncthreads();
        if (first_column + column < from.cols && first_row + sixteen < pitch) {
            const std::uint32_t* four = shared->codes + (column * kTilePitch + sixteen) / 4;
            *reinterpret_cast<uint4*>(codes + (first_column + column) * pitch + first_row + sixteen) =
                make_uint4(four[0], four[1], four[2], four[3]);
        }
        __syncthreads();
    }
}

}  // namespace

void quantize_e4m3_rows(const Stream& stream, ConstDeviceMatrix from, std::uint8_t* codes, std::size_t pitch,
                        float* scales) {
    launch(stream,
           {.grid = {static_cast<unsigned>(from.rows)},
            .threads = kThreads,
            .shared_bytes = kWarps * sizeof(float)},
           quantize_row, from, codes, pitch, scales);
}

void quantize_e4m3_columns(const Stream& stream, ConstDeviceMatrix from, std::uint8_t* codes,
                           std::size_t pitch, float* scales) {
    launch(stream,
           {.grid = {blocks_for(from.cols, kColumns)},
            .threads = kThreads,
            .shared_bytes = sizeof(ColumnsShared)},
           quantize_columns, from, codes, pitch, scales);
}

}  // namespace fedllm::kernels::cuda
