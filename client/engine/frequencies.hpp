// How fast a model's rotary position embedding turns.
#pragma once

#include <vector>

#include "client/model/model_config.hpp"

namespace fedllm::client::engine {

// The turning speed of each pair of a head (D/2), theta^(-2j/D), stretched by the model's rope_scaling.
std::vector<double> rope_frequencies(const model::ModelConfig& config);

}  // namespace fedllm::client::engine
