// The one list of shapes: the tests run all of them against the oracles, the benchmark times those marked so.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace fedllm::kernels::cases {

enum class Use { TestOnly, TestAndTime };

struct Matmul {
    std::size_t m, k, n;  // tokens, input channels, output channels
    Use use = Use::TestOnly;
};
// Tails of every blocking step (strips 14, 8, 4, 2, 1; panels 32, 16; depth 640; columns 64, 768), then the
// shapes of SmolLM2-135M and the demo's model.
inline constexpr std::array kMatmul = {
    Matmul{1, 1, 1},
    Matmul{1, 5, 3},
    Matmul{3, 1, 129},
    Matmul{2, 17, 33},
    Matmul{9, 656, 7},
    Matmul{130, 1300, 70},
    Matmul{13, 64, 31},
    Matmul{15, 385, 47},
    Matmul{57, 100, 65},
    Matmul{5, 770, 129},
    Matmul{27, 9, 1030},
    Matmul{480, 33, 20},
    Matmul{64, 192, 192},
    Matmul{1, 576, 1536},
    Matmul{1024, 576, 576, Use::TestAndTime},
    Matmul{1024, 576, 1536, Use::TestAndTime},
    Matmul{1024, 1536, 576, Use::TestAndTime},
    Matmul{256, 2048, 2048, Use::TestAndTime},
};

struct Lora {
    std::size_t m, k, n, r;
    Use use = Use::TestOnly;
};
inline constexpr std::array kLora = {
    Lora{1, 3, 2, 1},     Lora{7, 20, 9, 3},
    Lora{33, 70, 41, 17}, Lora{65, 400, 96, 64},
    Lora{19, 32, 48, 8},  Lora{9, 650, 33, 5},
    Lora{6, 40, 50, 170}, Lora{1024, 576, 576, 16, Use::TestAndTime},
};

struct Rows {
    std::size_t rows, cols;
    Use use = Use::TestOnly;
};
inline constexpr std::array kRows = {
    Rows{1, 1}, Rows{3, 7}, Rows{17, 33}, Rows{40, 192}, Rows{5, 130}, Rows{1024, 576, Use::TestAndTime},
};
inline constexpr std::array kLogits = {
    Rows{1, 1}, Rows{4, 5}, Rows{9, 77}, Rows{3, 4099}, Rows{64, 49152, Use::TestAndTime},
};

struct Rope {
    std::size_t rows, heads, head_size;
    Use use = Use::TestOnly;
};
inline constexpr std::array kRope = {
    Rope{1, 1, 2},
    Rope{5, 3, 6},
    Rope{33, 4, 20},
    Rope{1024, 9, 64, Use::TestAndTime},
};

// How first_key is made: one document, packed documents of changing length, a sliding window.
enum class Mask { Causal, Packed, Window };
struct Attention {
    std::size_t batch, tokens, heads, kv_heads, head_size;
    Mask mask = Mask::Causal;
    Use use = Use::TestOnly;
};
inline constexpr std::array kAttention = {
    Attention{1, 1, 1, 1, 4},
    Attention{2, 5, 2, 1, 3},
    Attention{1, 64, 2, 2, 16},
    Attention{2, 65, 4, 2, 20, Mask::Packed},
    Attention{1, 130, 6, 2, 32, Mask::Window},
    Attention{1, 200, 3, 1, 64, Mask::Packed},
    Attention{1, 70, 2, 1, 256},
    Attention{4, 256, 9, 3, 64, Mask::Causal, Use::TestAndTime},
    Attention{1, 1024, 9, 3, 64, Mask::Causal, Use::TestAndTime},
};

inline std::int32_t first_key_of(Mask mask, std::size_t t) {
    const auto at = static_cast<std::int32_t>(t);
    if (mask == Mask::Window) return at < 50 ? 0 : at - 49;
    if (mask == Mask::Packed) {
        std::int32_t start = 0;  // documents of 1, 8, 27, 64, 125, ... tokens
        for (std::int32_t n = 1; start + n * n * n <= at; ++n) start += n * n * n;
        return start;
    }
    return 0;
}

}  // namespace fedllm::kernels::cases
