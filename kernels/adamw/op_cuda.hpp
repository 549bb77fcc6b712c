// AdamW over one arena on the GPU, with the norm, the clipping and the step's numbers in the GPU's memory: a
// recorded graph takes any step. Same arithmetic as op.hpp.
#pragma once

#include <cstdint>

#include "kernels/adamw/op.hpp"
#include "kernels/cuda/runtime.hpp"

namespace fedllm::kernels::cuda {

struct AdamWStep {
    // The host writes (make_adamw_step).
    float learning_rate = 0, beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0;
    float correction1 = 1, correction2 = 1;  // 1 - beta^step
    float gradient_clip = 0;                 // largest norm; 0: none
    // clip_gradients() writes.
    double norm = 0;    // before clipping
    float scale = 1;    // of every gradient; 0 and `skip` where the norm is not finite
    unsigned skip = 0;  // 1: the step changes nothing
};
AdamWStep make_adamw_step(const AdamWConfig& config, std::uint64_t number, double gradient_clip);

// step->norm = sqrt(sum of squares), summed in double in fixed order; step->scale as
// torch.nn.utils.clip_grad_norm_. `scratch` has kNormBlocks doubles.
constexpr unsigned kNormBlocks = 1024;
void clip_gradients(const Stream& stream, const float* gradients, std::size_t count, double* scratch,
                    AdamWStep* step);

// `count` consecutive elements of the arena.
void adamw(const Stream& stream, const AdamWStep* step, std::size_t count, const float* gradients,
           float* params, float* first_moment, float* second_moment);

}  // namespace fedllm::kernels::cuda
