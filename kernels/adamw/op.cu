#include <cmath>
#include <cstdint>

#include "kernels/adamw/op_cuda.hpp"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.hpp"

namespace fedllm::kernels::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWide = 4;  // elements of a thread's turn
constexpr double kClipEpsilon = 1e-6;

bool aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % sizeof(float4) == 0; }

// `left` elements, at least one; zeros behind them.
__device__ __forceinline__ void load(float (&to)[kWide], const float* from, std::size_t left, bool wide) {
    if (wide && left >= kWide) {
        const float4 four = *reinterpret_cast<const float4*>(from);
        to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
        return;
    }
    for (unsigned j = 0; j < kWide; ++j) to[j] = j < left ? from[j] : 0.0f;
}
__device__ __forceinline__ void store(const float (&from)[kWide], float* to, std::size_t left, bool wide) {
    if (wide && left >= kWide) {
        *reinterpret_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
        return;
    }
    for (unsigned j = 0; j < kWide; ++j) {
        if (j < left) to[j] = from[j];
    }
}

// The roundings are those of op_cpu.cpp, one by one.
__device__ __forceinline__ void advance(const AdamWStep& f, float gradient, float& param, float& first,
                                        float& second) {
    const float g = __fmul_rn(gradient, f.scale);
    first = fmaf(__fsub_rn(g, first), f.one_minus_beta1, first);
    second = fmaf(__fmul_rn(g, g), f.one_minus_beta2, __fmul_rn(second, f.beta2));
    const float root = __fdiv_rn(__fsqrt_rn(second), f.root_correction);
    const float step = __fdiv_rn(first, __fadd_rn(root, f.epsilon));
    param = fmaf(-step, f.step_size, __fmul_rn(param, f.keep));
}

__global__ void adamw_kernel(const AdamWStep* step, std::size_t count, const float* gradients, float* params,
                             float* first_moment, float* second_moment, bool wide) {
    const std::size_t at = (std::size_t{blockIdx.x} * kThreads + threadIdx.x) * kWide;
    if (at >= count || step->skip != 0) return;
    const AdamWStep factors = *step;
    const std::size_t left = count - at;
    float g[kWide], p[kWide], m[kWide], v[kWide];
    load(g, gradients + at, left, wide);
    load(p, params + at, left, wide);
    load(m, first_moment + at, left, wide);
    load(v, second_moment + at, left, wide);
    for (unsigned j = 0; j < kWide; ++j) advance(factors, g[j], p[j], m[j], v[j]);
    store(p, params + at, left, wide);
    store(m, first_moment + at, left, wide);
    store(v, second_moment + at, left, wide);
}

// partials[b] = the squares of every gridDim.x-th run of kThreads * kWide elements. Squares are exact in
// double, so only the additions round.
__global__ void squares_kernel(const float* values, std::size_t count, double* partials, bool wide) {
    const std::size_t stride = std::size_t{gridDim.x} * kThreads * kWide;
    double sum = 0;
    for (std::size_t at = (std::size_t{blockIdx.x} * kThreads + threadIdx.x) * kWide; at < count;
         at += stride) {
        float four[kWide];
        load(four, values + at, count - at, wide);
        for (unsigned j = 0; j < kWide; ++j) sum += double{four[j]} * double{four[j]};
    }
    sum = block_sum(sum, shared_memory<double>());
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__device__ __forceinline__ bool is_finite(double value) {
    return fabs(value) <= 1.7976931348623157e308;  // false for NaN
}

__global__ void clip_kernel(const double* partials, unsigned count, AdamWStep* step, const double* loss) {
    double sum = 0;
    for (unsigned i = threadIdx.x; i < count; i += kThreads) sum += partials[i];
    const double norm = sqrt(block_sum(sum, shared_memory<double>()));
    if (threadIdx.x != 0) return;
    const bool finite = is_finite(norm) && (loss == nullptr || is_finite(*loss));
    const bool clips = step->gradient_clip > 0 && step->gradient_clip < norm + kClipEpsilon;
    const double scale = clips ? step->gradient_clip / (norm + kClipEpsilon) : 1.0;
    step->norm = norm;
    step->scale = finite ? static_cast<float>(scale) : 0.0f;
    step->skip = finite ? 0 : 1;
}

}  // namespace

AdamWStep make_adamw_step(const AdamWConfig& config, std::uint64_t number, double gradient_clip) {
    const double correction1 = 1.0 - std::pow(config.beta1, static_cast<double>(number));
    const double correction2 = 1.0 - std::pow(config.beta2, static_cast<double>(number));
    AdamWStep step;
    step.keep = static_cast<float>(1.0 - config.learning_rate * config.weight_decay);
    step.one_minus_beta1 = static_cast<float>(1.0 - config.beta1);
    step.beta2 = static_cast<float>(config.beta2);
    step.one_minus_beta2 = static_cast<float>(1.0 - config.beta2);
    step.root_correction = static_cast<float>(std::sqrt(correction2));
    step.epsilon = static_cast<float>(config.epsilon);
    step.step_size = static_cast<float>(config.learning_rate / correction1);
    step.gradient_clip = gradient_clip;
    return step;
}

void clip_gradients(const Stream& stream, const float* gradients, std::size_t count, double* scratch,
                    AdamWStep* step, const double* loss) {
    constexpr std::size_t kShared = kWarp * sizeof(double);
    const std::size_t runs = (count + kThreads * kWide - 1) / (kThreads * kWide);
    const unsigned blocks = runs < kNormBlocks ? static_cast<unsigned>(runs) : kNormBlocks;
    launch(stream, {.grid = {blocks}, .threads = kThreads, .shared_bytes = kShared}, squares_kernel,
           gradients, count, scratch, aligned(gradients));
    launch(stream, {.grid = {1}, .threads = kThreads, .shared_bytes = kShared}, clip_kernel, scratch, blocks,
           step, loss);
}

void adamw(const Stream& stream, const AdamWStep* step, std::size_t count, const float* gradients,
           float* params, float* first_moment, float* second_moment) {
    const bool wide =
        aligned(gradients) && aligned(params) && aligned(first_moment) && aligned(second_moment);
    launch(stream, {.grid = {blocks_for(count, kThreads * kWide)}, .threads = kThreads}, adamw_kernel, step,
           count, gradients, params, first_moment, second_moment, wide);
}

}  // namespace fedllm::kernels::cuda
