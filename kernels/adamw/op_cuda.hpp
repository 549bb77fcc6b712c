// AdamW over one arena on the GPU, with the norm, the clipping and the step's numbers in the GPU's memory: a
// recorded graph takes any step. Same arithmetic as op.hpp.
#pragma once

#include <cstdint>

#include "kernels/adamw/op.hpp"
#include "kernels/cuda/runtime.hpp"

namespace fedllm::kernels::cuda {

struct AdamWStep {
    // The host writes (make_adamw_step): the CPU's factors, rounded once from double, so that both have the
    // same bits.
    float keep = 1;  // 1 - learning_rate * weight_decay
    float one_minus_beta1 = 0, beta2 = 0, one_minus_beta2 = 0;
    float root_correction = 1;  // sqrt(1 - beta2^number)
    float epsilon = 0;
    float step_size = 0;       // learning_rate / (1 - beta1^number)
    double gradient_clip = 0;  // largest norm; 0: none
    // clip_gradients() writes.
    double norm = 0;    // before clipping
    float scale = 1;    // of every gradient; 0 and `skip` where norm or loss is not finite
    unsigned skip = 0;  // 1: the step changes nothing
};
// `number` is counted from 1.
AdamWStep make_adamw_step(const AdamWConfig& config, std::uint64_t number, double gradient_clip);

// step->norm = sqrt(sum of squares), summed in double in fixed order; step->scale as
// torch.nn.utils.clip_grad_norm_. `scratch` has kNormBlocks doubles. A `loss` (one double in the GPU's
// memory, or nullptr) that is not finite makes the step change nothing, too.
constexpr unsigned kNormBlocks = 1024;
void clip_gradients(const Stream& stream, const float* gradients, std::size_t count, double* scratch,
                    AdamWStep* step, const double* loss = nullptr);

// `count` consecutive elements of the arena, four at a time where all four pointers are aligned to 16 bytes.
void adamw(const Stream& stream, const AdamWStep* step, std::size_t count, const float* gradients,
           float* params, float* first_moment, float* second_moment);

}  // namespace fedllm::kernels::cuda
