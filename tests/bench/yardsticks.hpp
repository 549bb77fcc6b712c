// Public libraries to measure ourselves against, where CMake finds them. Nothing else links them.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace fedllm::bench {

// c (m,n) = a (m,k) b (n,k)^T, row-major, dense, f32.
using GemmNt = void (*)(std::size_t m, std::size_t n, std::size_t k, const float* a, const float* b,
                        float* c);

std::optional<GemmNt> openblas(unsigned threads);
std::optional<GemmNt> onednn();  // takes its threads from OMP_NUM_THREADS

}  // namespace fedllm::bench
