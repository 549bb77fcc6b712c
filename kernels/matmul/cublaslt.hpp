// cuBLASLt, opened when the first product needs it. Linked, its half gigabyte would be mapped and relocated
// (220 MB resident) by every program that could use a GPU, with or without one.
#pragma once

#include <cublasLt.h>

namespace fedllm::kernels::cuda {

struct CublasLt {
    decltype(&::cublasLtCreate) create;
    decltype(&::cublasLtDestroy) destroy;
    decltype(&::cublasLtGetVersion) version;
    decltype(&::cublasLtGetStatusString) status_string;
    decltype(&::cublasLtMatmul) matmul;
    decltype(&::cublasLtMatmulAlgoGetHeuristic) heuristic;
    decltype(&::cublasLtMatmulDescInit_internal) init_product;
    decltype(&::cublasLtMatmulDescSetAttribute) set_product;
    decltype(&::cublasLtMatrixLayoutInit_internal) init_matrix;
    decltype(&::cublasLtMatmulPreferenceInit_internal) init_preference;
    decltype(&::cublasLtMatmulPreferenceSetAttribute) set_preference;
};

// The library stays open. GpuError where it cannot be had.
const CublasLt& cublaslt();

}  // namespace fedllm::kernels::cuda
