// Products in FP8 against those in bf16, on values that e4m3 holds: all but the rounding must agree.
#pragma once

#include "tests/client/cuda_engine/scenario.hpp"
#include "tests/kernels/cuda/harness.hpp"

namespace fedllm::client::cuda_engine::cases {

void products_case(kernels::cuda::cases::Harness& harness, Scenario scenario);

}  // namespace fedllm::client::cuda_engine::cases
