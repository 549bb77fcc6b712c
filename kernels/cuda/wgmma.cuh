// The PTX of Hopper's tensor cores: wgmma, by a warpgroup (128 threads that follow each other), A from
// registers, B from shared memory. kernels/cuda/emulated_wgmma.hpp does the same by PTX's published layouts
// (PTX ISA 8.x, "Register Fragments for wgmma.mma_async.m64nNk16", "Matrix Descriptor", "128-Byte swizzle").
//
// Warp w of the group holds rows 16 w to 16 w + 15 of A (64,16) and D (64,N), as m16n8k16 holds its A and D;
// d[j] are columns 8 j to 8 j + 7. B is (16,N), column n 128 bytes of depth 64: its chunk c of 16 bytes lies
// at 128 n + 16 (c ^ n % 8) of a tile that is aligned to 1024 bytes.
//
//     wgmma_fence();  ... wgmma_m64k16(d, a[t], wgmma_operand(tile, t)); ...  wgmma_commit();
//     wgmma_wait<0>(d);
// From the first product to the wait that covers it, d, a and the tile belong to the tensor cores.
//
// Compiled for sm_90a; code for other GPUs traps.
#pragma once

#include "kernels/cuda/tensor_core.cuh"

#ifdef __CUDACC__

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define FEDLLM_WGMMA(...) asm volatile(__VA_ARGS__)
#else
#define FEDLLM_WGMMA(...) __trap()
#endif

namespace fedllm::kernels::cuda {

// What this thread wrote or copied into shared memory is there for wgmma, after the barrier behind it.
__device__ __forceinline__ void publish_to_wgmma() {
    FEDLLM_WGMMA("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// B of depths 16 step to 16 step + 15 of a tile. Fields in units of 16 bytes: where it starts (bits 0 to 13),
// how far groups of 8 columns are apart (bits 32 to 45: 1024 bytes); bits 62, 63: 128-byte swizzle.
__device__ __forceinline__ std::uint64_t wgmma_operand(const void* tile, unsigned step) {
    const std::uint64_t start = (shared_address(tile) + 32 * step) >> 4 & 0x3FFF;
    return start | std::uint64_t{1} << 16 | std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
}

// Before the first product behind a change of d or a by other instructions.
__device__ __forceinline__ void wgmma_fence() { FEDLLM_WGMMA("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() {
    FEDLLM_WGMMA("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
// All but the last kPending groups are done: their fragments and tiles are free.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
    FEDLLM_WGMMA("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}
// All are done, and d can be read: the compiler may not read it earlier.
template <unsigned kGroups>
__device__ __forceinline__ void wgmma_wait_all(float (&d)[kGroups][4]) {
    wgmma_wait<0>();
    FEDLLM_UNROLL
    for (unsigned e = 0; e < 4 * kGroups; ++e) asm volatile("" : "+f"(d[e / 4][e % 4])::"memory");
}

// d += a b, bf16 operands, f32 sums; N = 64, 128, 256.
#define FEDLLM_TEN(t) \
    "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define FEDLLM_D(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define FEDLLM_D4(j) FEDLLM_D(j), FEDLLM_D(j + 1), FEDLLM_D(j + 2), FEDLLM_D(j + 3)
#define FEDLLM_D8(j) FEDLLM_D4(j), FEDLLM_D4(j + 4)
#define FEDLLM_A "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])
// scale-d = scale-a = scale-b = 1, B not transposed: K runs along memory.
#define FEDLLM_PRODUCT(shape, d_list, a_list, b)                                          \
    "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                            \
    "wgmma.mma_async.sync.aligned." shape ".f32.bf16.bf16 {" d_list "}, {" a_list "}, " b \
    ", p, 1, 1, 0;\n}\n"

__device__ __forceinline__ void wgmma_m64k16(float (&d)[8][4], const std::uint32_t (&a)[4], std::uint64_t b) {
    FEDLLM_WGMMA(FEDLLM_PRODUCT("m64n64k16", FEDLLM_TEN() FEDLLM_TEN(1) FEDLLM_TEN(2) "%30,%31",
                                "%32,%33,%34,%35", "%36")
                 : FEDLLM_D8(0)
                 : FEDLLM_A, "l"(b)
                 : "memory");
}
__device__ __forceinline__ void wgmma_m64k16(float (&d)[16][4], const std::uint32_t (&a)[4],
                                             std::uint64_t b) {
    FEDLLM_WGMMA(FEDLLM_PRODUCT("m64n128k16",
                                FEDLLM_TEN() FEDLLM_TEN(1) FEDLLM_TEN(2) FEDLLM_TEN(3) FEDLLM_TEN(4)
                                    FEDLLM_TEN(5) "%60,%61,%62,%63",
                                "%64,%65,%66,%67", "%68")
                 : FEDLLM_D8(0), FEDLLM_D8(8)
                 : FEDLLM_A, "l"(b)
                 : "memory");
}
__device__ __forceinline__ void wgmma_m64k16(float (&d)[32][4], const std::uint32_t (&a)[4],
                                             std::uint64_t b) {
    FEDLLM_WGMMA(FEDLLM_PRODUCT("m64n256k16",
                                FEDLLM_TEN() FEDLLM_TEN(1) FEDLLM_TEN(2) FEDLLM_TEN(3) FEDLLM_TEN(
                                    4) FEDLLM_TEN(5) FEDLLM_TEN(6) FEDLLM_TEN(7) FEDLLM_TEN(8) FEDLLM_TEN(9)
                                    FEDLLM_TEN(10) FEDLLM_TEN(11) "%120,%121,%122,%123,%124,%125,%126,%127",
                                "%128,%129,%130,%131", "%132")
                 : FEDLLM_D8(0), FEDLLM_D8(8), FEDLLM_D8(16), FEDLLM_D8(24)
                 : FEDLLM_A, "l"(b)
                 : "memory");
}
#undef FEDLLM_TEN
#undef FEDLLM_D
#undef FEDLLM_D4
#undef FEDLLM_D8
#undef FEDLLM_A
#undef FEDLLM_PRODUCT

}  // namespace fedllm::kernels::cuda

#undef FEDLLM_WGMMA

#else
#include "kernels/cuda/emulated_wgmma.hpp"
#endif
