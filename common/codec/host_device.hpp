// Marks the functions that define bits: what a CUDA encoder compiles from the same lines to write the same
// bytes.
//
// Rules for them: float and integer arithmetic only where every operation rounds once by IEEE 754 (nearest,
// ties to even); no contraction of multiply and add (the build says -ffp-contract=off, a CUDA build says
// -fmad=false); no flush of subnormals; no library function whose last bit may differ.
#pragma once

#ifdef __CUDACC__
#define FEDLLM_HOST_DEVICE __host__ __device__
#else
#define FEDLLM_HOST_DEVICE
#endif
