// How a frozen base model is held and computed with: said by the job, obeyed by the client.
#pragma once

#include <cstdint>

namespace fedllm::tensor {

// Of the linear layers; embeddings, norms, biases and the head stay as they are stored.
enum class BaseStorage : std::uint8_t { AsStored, Bf16, Int8, Nf4, Fp4 };

// Of the products with frozen linear layers, and of a frozen head's: f32; operands rounded to bf16 and sums
// in f32; 8-bit integers with a scale per row (of the head the logits alone); or FP8 (e4m3) with a scale per row
// and token on GPUs that multiply so, and as Bf16 elsewhere.
enum class BaseCompute : std::uint8_t { Float, Bf16, Int8, Fp8 };

struct BaseSpec {
    BaseStorage storage = BaseStorage::AsStored;
    BaseCompute compute = BaseCompute::Float;
    bool operator==(const BaseSpec&) const = default;
};

}  // namespace fedllm::tensor
