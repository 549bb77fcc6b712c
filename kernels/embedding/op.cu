#include <cstdint>

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/vectors.cuh"
#include "kernels/embedding/op_cuda.hpp"

namespace fedllm::kernels::cuda {
namespace {

// Whether every row starts on 16 bytes, which tables need not do.
template <class T>
bool rows_aligned(const T* data, std::size_t pitch) {
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && pitch * sizeof(T) % 16 == 0;
}

__device__ __forceinline__ EightFloats load_wide(const float* from) { return load_eight(from); }
__device__ __forceinline__ EightFloats load_wide(const BF16* from) { return to_floats(load_eight(from)); }

// Reads nothing behind `left`; zeros there.
template <class T>
__device__ __forceinline__ EightFloats load_any(const T* from, unsigned left, bool aligned) {
    if (aligned && left == kEight) return load_wide(from);
    EightFloats eight;
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) eight.at[i] = i < left ? to_float(from[i]) : 0.0f;
    return eight;
}
__device__ __forceinline__ void store_any(float* to, const EightFloats& eight, unsigned left, bool aligned) {
    if (aligned && left == kEight) return store_eight(to, eight);
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) {
        if (i < left) to[i] = eight.at[i];
    }
}
__device__ __forceinline__ void add(EightFloats& sum, const EightFloats& more) {
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) sum.at[i] += more.at[i];
}

template <class T>
__global__ void forward(const std::int32_t* tokens, const T* table, bool aligned, MatrixView<BF16> out,
                        bool accumulate) {
    each_eight(out.rows, out.cols, [&](std::size_t m, std::size_t c, unsigned left) {
        const T* row = table + static_cast<std::size_t>(tokens[m]) * out.cols;
        EightFloats value = load_any(row + c, left, aligned);
        BF16* to = at(out, m, c);
        if (accumulate) add(value, to_floats(load_eight(to)));
        store_eight(to, to_eight(value), left);
    });
}

__global__ void gather(MatrixView<const BF16> x, const std::int32_t* places, MatrixView<BF16> y) {
    each_eight(y.rows, y.cols, [&](std::size_t i, std::size_t c, unsigned left) {
        const std::int32_t place = places[i];
        Eight value = {};
        if (place >= 0) value = load_eight(at(x, static_cast<std::size_t>(place), c));
        store_eight(at(y, i, c), value, left);
    });
}

__global__ void scatter(MatrixView<const BF16> x, const std::int32_t* places, MatrixView<BF16> y) {
    each_eight(x.rows, x.cols, [&](std::size_t i, std::size_t c, unsigned left) {
        const std::int32_t place = places[i];
        if (place < 0) return;
        store_eight(at(y, static_cast<std::size_t>(place), c), load_eight(at(x, i, c)), left);
    });
}

// Calls body(t), in order and in all threads of the block, for tokens[t] == token and t >= first. `votes` is
// 2 * kWarp words of shared memory, used in turn: one barrier a turn is enough.
template <class Body>
__device__ __forceinline__ void each_equal(const std::int32_t* tokens, std::size_t first, std::size_t count,
                                           std::int32_t token, unsigned* votes, Body&& body) {
    const unsigned warps = blockDim.x / kWarp;
    for (unsigned turn = 0; first < count; first += blockDim.x, ++turn) {
        const std::size_t t = first + threadIdx.x;
        unsigned* of_turn = votes + turn % 2 * kWarp;
        const unsigned equal = __ballot_sync(kFullMask, t < count && tokens[t] == token);
        if (threadIdx.x % kWarp == 0) of_turn[threadIdx.x / kWarp] = equal;
        __syncthreads();
        for (unsigned warp = 0; warp < warps; ++warp) {
            for (unsigned left = of_turn[warp]; left != 0; left &= left - 1)
                body(first + warp * kWarp + static_cast<unsigned>(__ffs(static_cast<int>(left)) - 1));
        }
    }
    __syncthreads();
}

// A block per token. The first of equal tokens adds the rows of all of them, in order; the others leave.
__global__ void backward(const std::int32_t* tokens, MatrixView<const BF16> dout, MatrixView<float> dtable,
                         bool aligned) {
    auto* votes = shared_memory<unsigned>();  // (3, kWarp)
    const std::size_t m = blockIdx.x;
    const std::int32_t token = tokens[m];
    unsigned earlier = 0;
    for (std::size_t t = threadIdx.x; t < m; t += blockDim.x) earlier |= tokens[t] == token ? 1U : 0U;
    if (block_sum(earlier, votes + 2 * kWarp) != 0) return;
    for (std::size_t first = 0; first < dout.cols; first += std::size_t{blockDim.x} * kEight) {
        const std::size_t c = first + threadIdx.x * kEight;
        const std::size_t room = c < dout.cols ? dout.cols - c : 0;
        const unsigned left = room < kEight ? static_cast<unsigned>(room) : kEight;
        float* to = at(dtable, static_cast<std::size_t>(token), c);
        EightFloats sum = load_any(to, left, aligned);
        const auto add_row = [&](std::size_t t) { add(sum, load_any(at(dout, t, c), left, true)); };
        add_row(m);
        each_equal(tokens, m + 1, dout.rows, token, votes, add_row);
        store_any(to, sum, left, aligned);
    }
}

}  // namespace

void embedding_forward(const Stream& stream, const std::int32_t* tokens, WeightView table, DeviceMatrix out,
                       Write write) {
    const Launch how = for_eights(out.rows, out.cols);
    const bool accumulate = write == Write::Accumulate;
    if (table.type == WeightType::F32) {
        const auto* values = static_cast<const float*>(table.data);
        launch(stream, how, forward<float>, tokens, values, rows_aligned(values, table.cols), out,
               accumulate);
    } else {
        const auto* values = static_cast<const BF16*>(table.data);
        launch(stream, how, forward<BF16>, tokens, values, rows_aligned(values, table.cols), out, accumulate);
    }
}

void embedding_backward(const Stream& stream, const std::int32_t* tokens, ConstDeviceMatrix dout,
                        MatrixView<float> dtable) {
    constexpr unsigned kFew = 256, kMany = 512;  // one turn of the columns where there are up to 4,096
    launch(stream,
           {.grid = {static_cast<unsigned>(dout.rows)},
            .threads = dout.cols > kFew * kEight ? kMany : kFew,
            .shared_bytes = 3 * kWarp * sizeof(unsigned)},
           backward, tokens, dout, dtable, rows_aligned(dtable.data, dtable.pitch));
}

void gather_rows(const Stream& stream, ConstDeviceMatrix x, const std::int32_t* places, DeviceMatrix y) {
    launch(stream, for_eights(y.rows, y.cols), gather, x, places, y);
}

void scatter_rows(const Stream& stream, ConstDeviceMatrix x, const std::int32_t* places, DeviceMatrix y) {
    launch(stream, for_eights(x.rows, x.cols), scatter, x, places, y);
}

}  // namespace fedllm::kernels::cuda
