#include <dnnl.h>

#include "tests/bench/yardsticks.hpp"

namespace fedllm::bench {
namespace {

void gemm_nt(std::size_t m, std::size_t n, std::size_t k, const float* a, const float* b, float* c) {
    const auto rows = static_cast<dnnl_dim_t>(m), cols = static_cast<dnnl_dim_t>(n);
    const auto depth = static_cast<dnnl_dim_t>(k);
    dnnl_sgemm('N', 'T', rows, cols, depth, 1.0f, a, depth, b, depth, 0.0f, c, cols);
}

}  // namespace

std::optional<GemmNt> onednn() { return gemm_nt; }

}  // namespace fedllm::bench
