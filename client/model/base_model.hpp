// A frozen base model: config.json and safetensors of a Hugging Face folder, checked and ready for the
// kernels.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/model/model_config.hpp"
#include "client/model/quantized.hpp"
#include "client/model/weights.hpp"
#include "common/base/files.hpp"
#include "common/base/result.hpp"
#include "common/formats/safetensors.hpp"
#include "common/tensor/base_spec.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::client::model {

// Lifecycle: move-only; views stay valid while it lives, moves included. F32 and BF16 matrices are used in
//   place from the memory map, so several processes share one copy; so are bitsandbytes' codes. Made once at
//   load: F16 and narrow biases and norms as f32, Conv1D weights turned to (out, in), scales of codes as f32.
// Concurrency: immutable after load; read from any thread.
// Limits: the file must not be truncated while it is mapped (replace it by rename instead).
class BaseModel {
public:
    // `base` says how the linear layers of the blocks are held and computed with: they are converted one
    // after the other, and the pages of the original are let go. Errors name file and tensor: missing,
    // unexpected, of wrong shape or type.
    static Result<BaseModel> load(const Path& folder, const tensor::BaseSpec& base = {});
    BaseModel(BaseModel&&) noexcept;
    BaseModel& operator=(BaseModel&&) noexcept;
    ~BaseModel();

    const ModelConfig& config() const { return config_; }
    const ModelWeights& weights() const { return weights_; }

    // Identifies the base across machines: SHA-256 (hex) of the config fields that change the computation
    // and, per tensor in name order, name, type, shape and a strided sample of bytes, of the files as they
    // are stored, with the scales and fields of quantised tensors. It catches a different or retrained model
    // in milliseconds, not a forger: sampling leaves bytes unread. Sharding does not change it.
    std::string fingerprint() const;

    // Bytes of its weights if `base` were how they are held, for planning; where the files are quantised,
    // they stay as they are.
    std::size_t bytes_held_as(const tensor::BaseSpec& base) const;
    bool is_quantized() const;  // some tensor of the files is

private:
    friend class WeightLoader;
    friend tensor::ParamSet full_parameters(const BaseModel& model);
    BaseModel(ModelConfig config, formats::SafetensorsFolder files);

    ModelConfig config_;
    formats::SafetensorsFolder files_;
    // In the order of model_tensors(): the tensor in the file with its companions (none: zeros), and how it
    // is held.
    std::vector<std::vector<const formats::TensorInfo*>> used_;
    std::vector<kernels::WeightView> views_;
    std::vector<std::unique_ptr<std::byte[]>> owned_;  // converted and turned tensors
    std::vector<HeldWeight> held_;                     // quantised ones
    std::vector<std::unique_ptr<kernels::Int8Weight>> integers_;
    ModelWeights weights_;
};

// A trainable copy of the whole model: full_manifest(config), f32. Of a quantised base these are the values
// that its codes stand for, which are those the engine computes with: what is trained or merged starts from
// them.
tensor::ParamSet full_parameters(const BaseModel& model);

enum class WeightsFormat { F32, BF16 };

// Saves a whole model (full_manifest(config)) as model.safetensors and config.json, each atomically, so that
// transformers and BaseModel load it. The caller adds the tokenizer.
Result<void> write_model_folder(const Path& folder, const ModelConfig& config,
                                const tensor::ParamSet& parameters, WeightsFormat format);

}  // namespace fedllm::client::model
