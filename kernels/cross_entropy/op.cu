#include <algorithm>

#include "kernels/cross_entropy/op_cuda.hpp"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/cuda/vectors.cuh"

namespace fedllm::kernels::cuda {
namespace {

constexpr unsigned kThreadsMax = 1024;
constexpr unsigned kAtOnce = 4;  // eights that a thread has on their way
constexpr std::size_t kScratchBytes = 2 * kWarp * sizeof(float);
constexpr float kLowest = -3.402823466e38f;  // below every finite bf16, and no infinity to subtract
constexpr float kLog2E = 1.4426950408889634f;

// exp(x - highest); the difference first, so that the highest gives 1 however large it is.
__device__ __forceinline__ float term(float x, float highest) {
    return exp2_approximate((x - highest) * kLog2E);
}

// Behind the row's end -inf, whose term is 0.
__device__ __forceinline__ Eight load_logits(const BF16* from, std::size_t left) {
    constexpr std::uint32_t kMinusInfinity = 0xFF80;
    Eight eight = load_eight(from);
    if (left >= kEight) return eight;
    FEDLLM_UNROLL
    for (unsigned i = 0; i < 4; ++i) {
        if (left <= 2 * i) eight.pairs[i] = kMinusInfinity;
        if (left <= 2 * i + 1) eight.pairs[i] = (eight.pairs[i] & 0xFFFF) | kMinusInfinity << 16;
    }
    return eight;
}

// sum of exp(x - highest) over what was seen.
struct Seen {
    float highest = kLowest, sum = 0;
};
__device__ __forceinline__ void see(Seen& seen, const Eight& bits) {
    const EightFloats x = to_floats(bits);
    float highest = x.at[0];
    FEDLLM_UNROLL
    for (unsigned i = 1; i < kEight; ++i) highest = fmaxf(highest, x.at[i]);
    if (highest > seen.highest) {
        seen.sum *= term(seen.highest, highest);
        seen.highest = highest;
    }
    FEDLLM_UNROLL
    for (unsigned i = 0; i < kEight; ++i) seen.sum += term(x.at[i], seen.highest);
}

// The first `kept` eights of the row stay in shared memory; each is read again by the thread that wrote it.
__device__ __forceinline__ Seen see_row(const BF16* row, std::size_t cols, BF16* keep, unsigned kept) {
    Seen seen;
    const auto eights = static_cast<unsigned>(eights_of(cols));
    for (unsigned first = threadIdx.x; first < eights; first += kAtOnce * blockDim.x) {
        Eight bits[kAtOnce];
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kAtOnce; ++i) {
            const unsigned e = first + i * blockDim.x;
            if (e < eights) bits[i] = load_logits(row + e * kEight, cols - e * kEight);
        }
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kAtOnce; ++i) {
            const unsigned e = first + i * blockDim.x;
            if (e < kept) store_eight(keep + e * kEight, bits[i]);
            if (e < eights) see(seen, bits[i]);
        }
    }
    return seen;
}

// scale * (softmax - onehot(target)) over the logits.
__device__ __forceinline__ void write_gradient(BF16* row, std::size_t cols, const BF16* keep, unsigned kept,
                                               float highest, float sum, unsigned target, float scale) {
    const float factor = scale / sum;
    const auto eights = static_cast<unsigned>(eights_of(cols));
    for (unsigned e = threadIdx.x; e < eights; e += blockDim.x) {
        BF16* at = row + e * kEight;
        EightFloats x = to_floats(load_eight(e < kept ? keep + e * kEight : at));
        FEDLLM_UNROLL
        for (unsigned i = 0; i < kEight; ++i) x.at[i] = term(x.at[i], highest) * factor;
        if (target / kEight == e) {
            FEDLLM_UNROLL
            for (unsigned i = 0; i < kEight; ++i) x.at[i] -= target % kEight == i ? scale : 0.0f;
        }
        const std::size_t left = cols - e * kEight;
        store_eight(at, to_eight(x), left < kEight ? static_cast<unsigned>(left) : kEight);
    }
}

__device__ __forceinline__ void clear_row(BF16* row, std::size_t cols) {
    for (std::size_t c = threadIdx.x * kEight; c < cols; c += std::size_t{blockDim.x} * kEight)
        store_eight(row + c, Eight{}, cols - c < kEight ? static_cast<unsigned>(cols - c) : kEight);
}

// A block per row.
__global__ void __launch_bounds__(kThreadsMax)
    loss_of_row(MatrixView<BF16> logits, const std::int32_t* targets, float* losses,
                const float* gradient_scale, unsigned kept) {
    auto* scratch = shared_memory<float>();  // (2, kWarp), then the kept part of the row
    auto* keep = reinterpret_cast<BF16*>(scratch + 2 * kWarp);
    const std::size_t m = blockIdx.x;
    BF16* row = at(logits, m, 0);
    const std::int32_t target = targets[m];
    if (target < 0) {
        if (threadIdx.x == 0) losses[m] = 0;
        if (gradient_scale != nullptr) clear_row(row, logits.cols);
        return;
    }
    const float of_target = threadIdx.x == 0 ? to_float(row[target]) : 0.0f;
    const Seen seen = see_row(row, logits.cols, keep, kept);
    const float highest = block_max(seen.highest, scratch);
    const float sum = block_sum(seen.sum * term(seen.highest, highest), scratch + kWarp);
    if (threadIdx.x == 0) losses[m] = logf(sum) + (highest - of_target);
    if (gradient_scale == nullptr) return;
    __syncthreads();  // the target's logit is read
    write_gradient(row, logits.cols, keep, kept, highest, sum, static_cast<unsigned>(target),
                   *gradient_scale);
}

__global__ void add_kernel(const float* losses, std::size_t count, double* sum) {
    double own = 0;
    for (std::size_t i = threadIdx.x; i < count; i += blockDim.x) own += double{losses[i]};
    own = block_sum(own, shared_memory<double>());
    if (threadIdx.x == 0) *sum += own;
}

}  // namespace

void cross_entropy(const Stream& stream, DeviceMatrix logits, const std::int32_t* targets, float* losses,
                   const float* gradient_scale) {
    const std::size_t eights = eights_of(logits.cols);
    const std::size_t room = (device_properties().shared_bytes_max - kScratchBytes) / sizeof(Eight);
    const std::size_t kept = gradient_scale == nullptr ? 0 : std::min(eights, room);
    // Where the kept part leaves room for one block alone on a multiprocessor, it has all the threads.
    const std::size_t threads_max = kept > room / 2 ? kThreadsMax : kThreadsMax / 2;
    const std::size_t threads =
        std::clamp<std::size_t>(eights / kAtOnce / kWarp, 1, threads_max / kWarp) * kWarp;
    launch(stream,
           {.grid = {static_cast<unsigned>(logits.rows)},
            .threads = static_cast<unsigned>(threads),
            .shared_bytes = kScratchBytes + kept * sizeof(Eight)},
           loss_of_row, logits, targets, losses, gradient_scale, static_cast<unsigned>(kept));
}

void add_losses(const Stream& stream, const float* losses, std::size_t count, double* sum) {
    launch(stream, {.grid = {1}, .threads = kThreadsMax, .shared_bytes = kWarp * sizeof(double)}, add_kernel,
           losses, count, sum);
}

}  // namespace fedllm::kernels::cuda
