// The yardstick of the grouped panels: the step's products with every projection and adapter apart.
#pragma once

#include "tests/bench/cuda/meter.hpp"
#include "tests/bench/cuda/step_models.hpp"

namespace fedllm::bench {

// Seconds of a step's products by cuBLASLt as one would write them without us: for each projection y = x w',
// s = x a', y += s b'; dx = dy w, ds = dy b, dx += ds a, da = ds' x, db = dy' s, with weights ready in bf16;
// one layer, times layers, and the head. Left out is everything else: attention, norms, RoPE, SwiGLU,
// residuals, loss, optimiser.
double separate_products_seconds(const Meter& meter, const StepModel& model);

}  // namespace fedllm::bench
