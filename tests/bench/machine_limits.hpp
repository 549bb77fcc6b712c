// What this machine can do at this moment: the denominators of the benchmark. Measured beside each operation,
// and in seconds of processor time, because on a shared machine both frequency and share drift by a third
// within minutes.
#pragma once

#include <string>

#include "kernels/device/thread_pool.hpp"

namespace fedllm::bench {

// f32 fused multiply-adds in registers, on all threads at once.
double fma_flops_per_core_second(kernels::ThreadPool& pool);
// 64 MiB arrays, bytes read plus bytes written.
double copy_bytes_per_core_second(kernels::ThreadPool& pool);
// Of this process. Other running threads are counted tick by tick (4 ms): only for spans of tenths of
// seconds.
double core_seconds();
std::string instruction_set();  // what Highway chose: "AVX3"

}  // namespace fedllm::bench
