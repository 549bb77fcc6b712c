// What this machine can do at this moment: the denominators of the benchmark. Measured beside each operation,
// and in seconds of processor time, because on a shared machine both frequency and share drift by a third
// within minutes.
#pragma once

#include <string>

#include "kernels/device/thread_pool.hpp"

namespace fedllm::bench {

double fma_flops_per_core_second(
    kernels::ThreadPool& pool);  // f32 fused multiply-adds in registers, all threads
double copy_bytes_per_core_second(kernels::ThreadPool& pool);  // 64 MiB arrays, bytes read plus bytes written
double core_seconds();                                         // of this process, all its threads
std::string instruction_set();                                 // what Highway chose: "AVX3"

}  // namespace fedllm::bench
