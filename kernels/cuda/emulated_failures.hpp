// A GPU that fails on demand, for tests of what happens then.
#pragma once

#include <cstdint>

namespace fedllm::kernels::cuda::emulation {

constexpr std::uint64_t kNever = ~std::uint64_t{0};

// After so many more calls that take memory, copy, launch or wait, each one throws GpuError.
void fail_after(std::uint64_t calls);

}  // namespace fedllm::kernels::cuda::emulation
