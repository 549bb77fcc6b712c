// What this machine's integer dot products can do: the denominator of bench_int8.
#pragma once

#include "kernels/device/thread_pool.hpp"

namespace fedllm::bench {

// vpdpbusd in registers, on all threads at once, two operations per product; 0 where the processor lacks it.
double vnni_operations_per_core_second(kernels::ThreadPool& pool);

}  // namespace fedllm::bench
