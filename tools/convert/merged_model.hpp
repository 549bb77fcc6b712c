// A base model with an adapter worked into its weights: a model folder of its own.
#pragma once

#include <optional>

#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "common/formats/peft.hpp"
#include "common/tensor/dtype.hpp"
#include "kernels/device/thread_pool.hpp"

namespace fedllm::tools::convert {

// Writes to `out`, file by file as the base is cut, every tensor of `base`, the adapted ones as
// W + scale * B A, rounded once; then config.json, the tokenizer and what else is read beside a model.
// `dtype` (F32, F16 or BF16) becomes the type of all weights; absent: each keeps its own.
// Conv1D weights of GPT-2, which lie transposed, are met as such.
// Errors: ManifestMismatch (a module that the base lacks, or of another shape), Unsupported (quantised
// weights), NotFinite (beyond the type), AlreadyExists (`out` is the base itself).
// Limits: one file of the base is in memory at a time.
Result<void> write_merged_model(const Path& out, const Path& base, const formats::LoadedAdapter& adapter,
                                std::optional<tensor::DType> dtype, kernels::ThreadPool& pool);

}  // namespace fedllm::tools::convert
