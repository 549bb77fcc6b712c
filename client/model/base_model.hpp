// A frozen base model: config.json and safetensors of a Hugging Face folder, checked and ready for the
// kernels.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/model/model_config.hpp"
#include "client/model/weights.hpp"
#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "common/formats/safetensors.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::client::model {

// Lifecycle: move-only; views stay valid while it lives, moves included. F32 and BF16 matrices are used in
//   place from the memory map, so several processes share one copy. Copied once at load: F16 and narrow
//   biases and norms as f32, and Conv1D weights, turned to (out, in).
// Concurrency: immutable after load; read from any thread.
// Limits: the file must not be truncated while it is mapped (replace it by rename instead).
class BaseModel {
public:
    // Errors name file and tensor: missing, unexpected, of wrong shape or type.
    static Result<BaseModel> load(const Path& folder);

    const ModelConfig& config() const { return config_; }
    const ModelWeights& weights() const { return weights_; }

    // Identifies the base across machines: SHA-256 (hex) of the config fields that change the computation
    // and, per tensor in name order, name, type, shape and a strided sample of bytes. It catches a different
    // or retrained model in milliseconds, not a forger: sampling leaves bytes unread. Sharding does not
    // change it.
    std::string fingerprint() const;

private:
    friend class WeightLoader;
    friend tensor::ParamSet full_parameters(const BaseModel& model);
    BaseModel(ModelConfig config, formats::SafetensorsFolder files)
        : config_(std::move(config)), files_(std::move(files)) {}

    ModelConfig config_;
    formats::SafetensorsFolder files_;
    std::vector<const formats::TensorInfo*> used_;     // in the order of model_tensors(); null: zeros
    std::vector<std::unique_ptr<std::byte[]>> owned_;  // converted and turned tensors
    ModelWeights weights_;
};

// A trainable copy of the whole model: full_manifest(config), f32.
tensor::ParamSet full_parameters(const BaseModel& model);

enum class WeightsFormat { F32, BF16 };

// Saves a whole model (full_manifest(config)) as model.safetensors and config.json, each atomically, so that
// transformers and BaseModel load it. The caller adds the tokenizer.
Result<void> write_model_folder(const Path& folder, const ModelConfig& config,
                                const tensor::ParamSet& parameters, WeightsFormat format);

}  // namespace fedllm::client::model
