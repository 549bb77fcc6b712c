// Quantised linear layers of a frozen base: those that bitsandbytes made and transformers saved, and those we
// quantise while loading.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "common/base/result.hpp"
#include "common/formats/safetensors.hpp"
#include "common/tensor/base_spec.hpp"
#include "kernels/device/thread_pool.hpp"
#include "kernels/device/views.hpp"

namespace fedllm::client::model {

// A weight with what had to be made for it. Moving it keeps the view valid, copying would not.
struct HeldWeight {
    kernels::WeightView view;
    std::vector<std::byte> bytes;  // codes, unless they are used where they lie in the file
    std::vector<float> scales;

    HeldWeight() = default;
    HeldWeight(HeldWeight&&) = default;
    HeldWeight& operator=(HeldWeight&&) = default;
};

// A quantised weight in a file: the tensor `name` itself, then those that explain it.
struct QuantizedWeight {
    HeldWeight held;  // codes in place, scales decoded once
    std::vector<const formats::TensorInfo*> tensors;
};

// Whether the tensor `name` was quantised: beside it lie '<name>.quant_state.bitsandbytes__nf4' or '__fp4',
// or the '.SCB' of LLM.int8. Decided tensor by tensor, as transformers does: others of the file may not be.
bool is_quantized(const formats::SafetensorsFolder& files, const std::string& name);

// Reads it as (rows, cols). Every length, shape and field is checked; InvalidModel and Unsupported name file
// and tensor.
Result<QuantizedWeight> read_quantized(const formats::SafetensorsFolder& files, const std::string& name,
                                       std::size_t rows, std::size_t cols);

// The same weight, from f32 or bf16, held in another type (not AsStored): NF4 and FP4 in blocks of 64.
// InvalidModel, without a name, for a value that is not finite.
Result<HeldWeight> hold_as(kernels::ThreadPool& pool, const kernels::WeightView& weight,
                           tensor::BaseStorage storage);

bool all_finite(std::span<const float> scales);

// The type that hold_as() makes.
kernels::WeightType held_type(tensor::BaseStorage storage);

}  // namespace fedllm::client::model
