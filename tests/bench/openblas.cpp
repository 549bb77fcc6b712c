#include <cblas.h>

#include "tests/bench/yardsticks.hpp"

namespace fedllm::bench {
namespace {

void gemm_nt(std::size_t m, std::size_t n, std::size_t k, const float* a, const float* b, float* c) {
    const auto rows = static_cast<blasint>(m), cols = static_cast<blasint>(n),
               depth = static_cast<blasint>(k);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, cols, depth, 1.0f, a, depth, b, depth, 0.0f, c,
                cols);
}

}  // namespace

std::optional<GemmNt> openblas(unsigned threads) {
    openblas_set_num_threads(static_cast<int>(threads));
    return gemm_nt;
}

}  // namespace fedllm::bench
