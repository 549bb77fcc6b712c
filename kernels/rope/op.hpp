// Rotary position embedding (Su et al. 2021) in Hugging Face's half-split form: columns j and j + D/2 of a
// head are one pair, turned by the angle position * frequency[j]. In place; the backward pass is the inverse
// turn.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::kernels {

enum class Turn { Forward, Backward };

// Writes cos and sin of position * frequency[j], both (positions, D/2), angles in double before rounding.
inline void rope_table(std::size_t positions, std::span<const double> frequencies,  // (D/2)
                       float* cosine, float* sine) {
    for (std::size_t p = 0; p < positions; ++p) {
        for (std::size_t j = 0; j < frequencies.size(); ++j) {
            const double angle = static_cast<double>(p) * frequencies[j];
            cosine[p * frequencies.size() + j] = static_cast<float>(std::cos(angle));
            sine[p * frequencies.size() + j] = static_cast<float>(std::sin(angle));
        }
    }
}

void rope(ThreadPool& pool, Matrix x,  // (M, heads*D), turned in place
          std::size_t heads, std::size_t head_size, const std::int32_t* positions,  // (M)
          const float* cosine, const float* sine,                                   // (positions, D/2)
          Turn turn);

}  // namespace fedllm::kernels
