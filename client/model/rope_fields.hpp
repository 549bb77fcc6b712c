// What config.json says about rotary position embedding. Private to the readers of this folder.
#pragma once

#include "client/model/config_fields.hpp"
#include "client/model/model_config.hpp"

namespace fedllm::client::model {

// rope_theta and the scaling, from the fields of either generation of transformers. Unsupported for scalings
// other than 'linear' and 'llama3', and for RoPE on a part of each head.
Result<void> read_rope(const Fields& fields, ModelConfig& config);

// The value of `rope_scaling` for a config.json; null without scaling.
nlohmann::ordered_json rope_scaling_json(const RopeScaling& scaling);

}  // namespace fedllm::client::model
