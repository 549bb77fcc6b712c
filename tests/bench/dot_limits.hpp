// What this machine's integer and bf16 dot products can do: the denominators of products that use them.
#pragma once

#include "kernels/device/thread_pool.hpp"

namespace fedllm::bench {

// vpdpbusd and vdpbf16ps in registers, on all threads at once, two operations per product; 0 where the
// processor lacks them.
double vnni_operations_per_core_second(kernels::ThreadPool& pool);
double bf16_operations_per_core_second(kernels::ThreadPool& pool);

}  // namespace fedllm::bench
