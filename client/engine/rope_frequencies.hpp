// The turning speeds of rotary position embedding: theta^(-2j/D) for pair j of a head.
#pragma once

#include <cmath>
#include <vector>

#include "client/model/model_config.hpp"

namespace fedllm::client::engine {

// Rounded to f32, as the models were trained with (transformers keeps inv_freq in f32); at large positions
// the difference to exact powers shows in the loss.
inline std::vector<double> rope_frequencies(const model::ModelConfig& config) {
    std::vector<double> frequencies(config.head_size / 2);
    for (std::size_t j = 0; j < frequencies.size(); ++j) {
        const double exponent = -2.0 * static_cast<double>(j) / static_cast<double>(config.head_size);
        frequencies[j] = static_cast<float>(std::pow(config.rope_theta, exponent));
    }
    return frequencies;
}

}  // namespace fedllm::client::engine
