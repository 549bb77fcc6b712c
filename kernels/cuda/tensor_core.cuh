// The PTX that our kernels use: asynchronous copies into shared memory, matrix fragments, tensor cores. All
// inline assembly is here; kernels/cuda/emulated_tensor_core.hpp does the same by PTX's published fragment
// layouts (PTX ISA 8.x, sections "Matrix fragments for mma.m16n8k16" and "ldmatrix").
//
// Fragments of m16n8k16 (row-major A (16,16), column-major B (16,8), C and D (16,8)), lane = 4 g + i:
//   a[0] = A[g][2i..2i+1]      a[1] = A[g+8][2i..]      a[2] = A[g][2i+8..]      a[3] = A[g+8][2i+8..]
//   b[0] = B[2i..2i+1][g]      b[1] = B[2i+8..][g]
//   d[0], d[1] = D[g][2i], D[g][2i+1]                    d[2], d[3] = D[g+8][2i], D[g+8][2i+1]
#pragma once

#include "kernels/cuda/device_code.cuh"

#ifdef __CUDACC__

namespace fedllm::kernels::cuda {

__device__ __forceinline__ unsigned shared_address(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// The first `bytes` (0 to 16) of 16 from global to shared memory, both aligned to 16; zeros for the rest, of
// which nothing is read. There before the wait of this thread, and for the others after the barrier behind
// it.
__device__ __forceinline__ void copy_async_part(void* shared, const void* global, unsigned bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global),
                 "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid = true) {
    copy_async_part(shared, global, valid ? 16 : 0);
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// All but the last `kPending` groups of this thread are there.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices of bf16: lane l gives the address of row l % 8 of matrix l / 8 (16 bytes, aligned). r[j]
// is elements 2i, 2i+1 of row g of matrix j, or with transpose of column g.
__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d += a b, bf16 operands, f32 sums.
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4],
                                             const std::uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 2 to the power of x, to 2 units in the last place; 0 where that is subnormal. -infinity gives 0.
__device__ __forceinline__ float exp2_approximate(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(power) : "f"(x));
    return power;
}

}  // namespace fedllm::kernels::cuda

#else
#include "kernels/cuda/emulated_tensor_core.hpp"
#endif
