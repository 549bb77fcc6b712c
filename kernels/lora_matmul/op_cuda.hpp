// Quantised LoRA on the GPU: base and adapter in one product, by a panel that holds both.
//
//            K columns          R columns
//   N rows [ W (dequantised)  | scale_i B_i, block-diagonal ]    forward:  Y  = [X | S]   panel[0:N, 0:K+R]^T
//   R rows [ A_1; A_2; ...    | unused                      ]    backward: dX = [dY | dS] panel[0:N+R, 0:K]
//
// One panel per group of projections that read one input (q, k, v; gate, up), or per projection. X lives in a
// buffer of pitch K + R, whose tail columns hold S = X A^T; dY in one of pitch N + R, whose tail holds dS =
// dY (scale B). Each adapter's place in R is rounded up to 8 columns and R to 16; places that no adapter
// fills are zero in the panel and must be finite (zero) in the tails. K and N are rounded up to 8 in the
// pitches; the gap is zero.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/views.hpp"

namespace fedllm::kernels::cuda {

// One projection of a panel, and its adapter.
struct PanelPart {
    std::size_t row = 0;    // of the panel, where its outputs begin
    std::size_t rows = 0;   // N_i
    std::size_t rank = 0;   // 0: no adapter
    std::size_t place = 0;  // column of S and dS where its R_i begin
    float scale = 1.0f;
    const float* a = nullptr;  // (R_i,K), trained values in the GPU's memory
    const float* b = nullptr;  // (N_i,R_i)
};

// With k = 0 it holds B alone, with n = 0 (and parts of no rows) A: borders of a W that lies elsewhere.
struct Panel {
    DeviceMatrix values;  // (N' + R, K' + R), N' and K' rounded up to 8
    std::size_t n = 0, k = 0, r = 0;
    std::size_t n_padded() const { return (n + 7) / 8 * 8; }
    std::size_t k_padded() const { return (k + 7) / 8 * 8; }
};
// Places for the ranks of a panel's parts, in order: sets `place` of each, returns R.
std::size_t place_adapters(std::span<PanelPart> parts);

// A and scale B of one part into the panel's border, from f32, rounded once, and nothing else: who makes the
// panel fills it with zeros first. After every optimiser step.
void fill_border(const Stream& stream, const Panel& panel, const PanelPart& part);

// dS and dB of one part, in one pass over dY and in fixed order:
//   ds (M,R_i) = dy (M,N_i) (scale B);  db (N_i,R_i) += scale dy^T s.
// The B of the panel's border is read, already scaled. `scratch` has low_rank_scratch() floats.
void low_rank_backward(const Stream& stream, const Panel& panel, const PanelPart& part, ConstDeviceMatrix dy,
                       ConstDeviceMatrix s,  // (M,R_i), from the forward pass
                       DeviceMatrix ds, float* db, float* scratch);
std::size_t low_rank_scratch(std::size_t m, std::size_t n, std::size_t rank);

}  // namespace fedllm::kernels::cuda
