// How a frozen base model is held and computed with: said by the job, obeyed by the client.
#pragma once

#include <cstdint>

namespace fedllm::tensor {

// Of the linear layers; embeddings, norms, biases and the head stay as they are stored.
enum class Storage : std::uint8_t { AsStored, Bf16, Int8, Nf4, Fp4 };

// Of the products with frozen linear layers: f32, or 8-bit integers with a scale per row.
enum class Compute : std::uint8_t { Float, Int8 };

struct BaseSpec {
    Storage storage = Storage::AsStored;
    Compute compute = Compute::Float;
    bool operator==(const BaseSpec&) const = default;
};

}  // namespace fedllm::tensor
