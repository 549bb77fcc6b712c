// For processors that are not x86-64: linked instead of dot_limits.cpp.
#include "tests/bench/dot_limits.hpp"

namespace fedllm::bench {

double vnni_operations_per_core_second(kernels::ThreadPool&) { return 0; }
double bf16_operations_per_core_second(kernels::ThreadPool&) { return 0; }

}  // namespace fedllm::bench
