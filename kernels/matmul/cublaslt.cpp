#include "kernels/matmul/cublaslt.hpp"

#include <dlfcn.h>

#include <string>

#include "kernels/cuda/runtime.hpp"

namespace fedllm::kernels::cuda {
namespace {

#define FEDLLM_TEXT_OF(value) #value
#define FEDLLM_TEXT(value) FEDLLM_TEXT_OF(value)
constexpr const char* kLibrary = "libcublasLt.so." FEDLLM_TEXT(CUBLAS_VER_MAJOR);

// Where the system looks, then where the toolkit was when this was built.
void* open_library() {
    if (void* library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL)) return library;
    const std::string built_with = std::string(FEDLLM_CUDA_LIBRARIES) + "/" + kLibrary;
    if (void* library = ::dlopen(built_with.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    throw GpuError(std::string(kLibrary) +
                   " is not here: install CUDA's libraries, or set LD_LIBRARY_PATH to their folder (" +
                   ::dlerror() + ")");
}

template <class F>
void find(void* library, const char* name, F& function) {
    function = reinterpret_cast<F>(::dlsym(library, name));
    if (function == nullptr) throw GpuError(std::string(kLibrary) + " has no " + name);
}

CublasLt bind() {
    void* const library = open_library();
    CublasLt found{};
    find(library, "cublasLtCreate", found.create);
    find(library, "cublasLtDestroy", found.destroy);
    find(library, "cublasLtGetVersion", found.version);
    find(library, "cublasLtGetStatusString", found.status_string);
    find(library, "cublasLtMatmul", found.matmul);
    find(library, "cublasLtMatmulAlgoGetHeuristic", found.heuristic);
    find(library, "cublasLtMatmulDescInit_internal", found.init_product);
    find(library, "cublasLtMatmulDescSetAttribute", found.set_product);
    find(library, "cublasLtMatrixLayoutInit_internal", found.init_matrix);
    find(library, "cublasLtMatmulPreferenceInit_internal", found.init_preference);
    find(library, "cublasLtMatmulPreferenceSetAttribute", found.set_preference);
    return found;
}

}  // namespace

const CublasLt& cublaslt() {
    static const CublasLt found = bind();
    return found;
}

}  // namespace fedllm::kernels::cuda
