// What both implementations of Blas ask of a Gemm, and what makes two Gemms the same one to multiply.
#pragma once

#include <string>
#include <tuple>

#include "kernels/matmul/op_cuda.hpp"

namespace fedllm::kernels::cuda {

inline std::size_t size_of(Element type) { return type == Element::E4M3 ? 1 : type == Element::BF16 ? 2 : 4; }

inline void demand(bool holds, const char* what) {
    if (!holds) throw GpuError(std::string("a product asks for ") + what);
}
inline void check_place(const void* data, std::size_t pitch, std::size_t width, Element type) {
    demand(data != nullptr, "memory that is not there");
    demand(reinterpret_cast<std::uintptr_t>(data) % 16 == 0, "data that is not aligned to 16 bytes");
    demand(pitch * size_of(type) % 16 == 0, "rows that are not aligned to 16 bytes");
    demand(pitch >= width, "a pitch less than its columns");
}
inline void check(const Gemm& gemm) {
    demand(gemm.m > 0 && gemm.n > 0 && gemm.k > 0, "an empty operand");
    demand(gemm.a.type == gemm.b.type, "operands of two types");
    demand(gemm.d_type != Element::E4M3, "a result of E4M3");
    demand(gemm.a.type != Element::F32 || gemm.d_type == Element::F32, "a BF16 result of F32 operands");
    check_place(gemm.a.data, gemm.a.pitch, gemm.a.turned ? gemm.m : gemm.k, gemm.a.type);
    check_place(gemm.b.data, gemm.b.pitch, gemm.b.turned ? gemm.k : gemm.n, gemm.b.type);
    check_place(gemm.d, gemm.d_pitch, gemm.n, gemm.d_type);
    if (gemm.beta != 0.0f) check_place(gemm.c, gemm.c_pitch, gemm.n, gemm.d_type);
    demand(gemm.c != gemm.d || gemm.beta == 0.0f || gemm.c_pitch == gemm.d_pitch,
           "a sum in place with two pitches");
    const bool scales_right = gemm.a.type == Element::E4M3
                                  ? gemm.a.scales != nullptr && gemm.b.scales != nullptr
                                  : gemm.a.scales == nullptr && gemm.b.scales == nullptr;
    demand(scales_right, "scales of one operand, or of operands that have none");
    const bool along_memory =
        !gemm.a.turned && gemm.b.turned && gemm.k % 16 == 0 && gemm.n * size_of(gemm.d_type) % 16 == 0;
    demand(gemm.a.type != Element::E4M3 || along_memory, "E4M3 in a layout that no GPU multiplies");
}

using GemmShape = std::tuple<std::size_t, std::size_t, std::size_t, std::size_t, std::size_t, std::size_t,
                             std::size_t, bool, bool, bool, Element, Element>;
inline GemmShape shape_of(const Gemm& gemm) {
    const bool sum = gemm.beta != 0.0f;
    return {gemm.m,       gemm.n,        gemm.k,        gemm.a.pitch, gemm.b.pitch, sum ? gemm.c_pitch : 0,
            gemm.d_pitch, gemm.a.turned, gemm.b.turned, sum,          gemm.a.type,  gemm.d_type};
}

}  // namespace fedllm::kernels::cuda
