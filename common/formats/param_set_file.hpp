// A ParamSet as a safetensors file: what a model version is, on the wire and on disk. For LoRA jobs it is
// exactly PEFT's adapter_model.safetensors. The manifest's order is the order of the data in the file.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::formats {

// All tensors F32, metadata {"format": "pt"}; atomic. The same set gives the same bytes.
Result<void> write_param_set(const Path& path, const tensor::ParamSet& params);

// What such a file begins with; the values follow in manifest order, as little-endian f32, without gaps.
Result<std::vector<std::byte>> param_set_header(const tensor::Manifest& manifest);

// ManifestMismatch for a tensor that is not F32; NotFinite, naming the tensor, for NaN or infinity.
Result<tensor::ParamSet> read_param_set(const Path& path);

// The same checks, in pieces: nothing of the file's size in memory.
Result<tensor::Manifest> check_param_set(const Path& path);

// The values in the bytes of such a file, which need not be read into memory for it. ManifestMismatch where
// they are not those of `manifest`; InvalidFile where the header is padded so that they lie askew.
Result<std::span<const float>> param_set_values(std::span<const std::byte> file,
                                                const tensor::Manifest& manifest);

// The tensors' names and shapes alone.
Result<tensor::Manifest> read_manifest(const Path& path);

}  // namespace fedllm::formats
