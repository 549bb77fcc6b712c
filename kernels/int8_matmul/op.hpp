// Products with a frozen weight in 8-bit integers, summed in 32 bits: Y = X W^T and its input gradient dX =
// dY W. W has a scale per output row, fixed; X and dY get one per row, from their largest value (absmax /
// 127), as they come (LLM.int8, Dettmers et al. 2022, section 2.1, without outliers). For dX the weight's
// scales are multiplied into dY first, so both products read the same codes: dX is the gradient of the Y that
// was computed.
//
// The sums are exact, so the result does not depend on threads, instruction sets or the other rows. A row of
// X that is not finite makes its row of Y so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {

// The longest sum that cannot overflow: 255 * 127 * 2^16 < 2^31.
constexpr std::size_t kInt8DepthMax = 65536;

// One order of the codes: panels of 32 outputs, in each the depth four by four.
struct Int8Panels {
    std::size_t outputs = 0;
    std::size_t depth = 0;
    std::vector<std::uint8_t> codes;  // + 128
};

// Which products a weight is packed for: a byte and a little per element and direction. The head is packed
// for the forward product alone: the gradient of a softmax holds values too far apart for one scale per row.
enum class Int8Use { Both, Forward };

// Lifecycle: a value, made once.
struct Int8Weight {
    Int8Panels forward;         // outputs N, depth K
    Int8Panels backward;        // outputs K, depth N; empty if packed for the forward product alone
    std::vector<float> scales;  // (N)

    bool has_backward() const { return !backward.codes.empty(); }
};

constexpr bool fits_int8_matmul(std::size_t rows, std::size_t cols, Int8Use use = Int8Use::Both) {
    return rows > 0 && cols > 0 && cols <= kInt8DepthMax &&
           (use == Int8Use::Forward || rows <= kInt8DepthMax);
}

// Bytes that pack_int8() makes of a weight (N,K).
std::size_t int8_weight_bytes(std::size_t rows, std::size_t cols, Int8Use use = Int8Use::Both);

// Quantises by rows, from any type; fits_int8_matmul() is the caller's to check. Scales tell of
// values that are not finite.
Int8Weight pack_int8(ThreadPool& pool, WeightView from,  // (N,K)
                     Int8Use use = Int8Use::Both);

// y = x w^T, or y += x w^T.
void int8_matmul_forward(ThreadPool& pool, ConstMatrix x,  // (M,K)
                         const Int8Weight& w, Matrix y,    // (M,N)
                         Write write = Write::Overwrite);

// dx = dy w, or dx += dy w.
void int8_matmul_backward_input(ThreadPool& pool, ConstMatrix dy,  // (M,N)
                                const Int8Weight& w, Matrix dx,    // (M,K)
                                Write write = Write::Overwrite);

}  // namespace fedllm::kernels
