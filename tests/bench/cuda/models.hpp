// The shapes that are measured, and the operations by family.
#pragma once

#include <vector>

#include "tests/bench/cuda/meter.hpp"

namespace fedllm::bench {

struct Model {
    std::string name;
    std::size_t hidden, ffn, heads, kv_heads, head_size, vocabulary;
    std::size_t batch, tokens;  // of a training step
    std::size_t rank;
    std::size_t adapter_values;  // of all layers

    std::size_t rows() const { return batch * tokens; }
    std::size_t q() const { return heads * head_size; }
    std::size_t kv() const { return kv_heads * head_size; }
};
inline const Model kLlama8B{"8B", 4096, 14336, 32, 8, 128, 128256, 4, 2048, 16, 41943040};
inline const Model kLlama1B{"1B", 2048, 8192, 32, 8, 64, 128256, 4, 2048, 16, 11272192};
inline const Model kTiny{"tiny", 64, 128, 4, 2, 16, 144, 2, 24, 8, 4000};

inline std::string by(std::size_t rows, std::size_t cols) {
    return std::to_string(rows) + "x" + std::to_string(cols);
}
inline std::string by(std::size_t m, std::size_t n, std::size_t k) {
    return by(m, n) + "x" + std::to_string(k);
}

void measure_products(Meter& meter, const Model& model);  // cuBLASLt, by bf16 and by E4M3
void measure_weights(Meter& meter, const Model& model);   // NF4: widened, fused; E4M3 made; adapters
void measure_rows(Meter& meter, const Model& model);      // what is bound by memory
void measure_attention(Meter& meter, const Model& model);
void measure_training(Meter& meter, const Model& model);  // loss and optimiser

}  // namespace fedllm::bench
