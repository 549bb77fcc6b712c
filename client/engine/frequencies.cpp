#include "client/engine/frequencies.hpp"

#include <cmath>
#include <numbers>

namespace fedllm::client::engine {
namespace {

// Llama 3.1: waves that the first training saw whole turn as before, waves longer than that text turn
// `factor` times slower, and those between are blended.
double stretched(const model::RopeScaling& scaling, double frequency) {
    const double length = 2 * std::numbers::pi / frequency;
    const double context = static_cast<double>(scaling.original_context);
    if (length < context / scaling.high_frequency_factor) return frequency;
    if (length > context / scaling.low_frequency_factor) return frequency / scaling.factor;
    const double kept = (context / length - scaling.low_frequency_factor) /
                        (scaling.high_frequency_factor - scaling.low_frequency_factor);
    return (1 - kept) * frequency / scaling.factor + kept * frequency;
}

}  // namespace

// Rounded to f32, as the models were trained with (transformers keeps inv_freq in f32); at large positions
// the difference to exact powers shows in the loss.
std::vector<double> rope_frequencies(const model::ModelConfig& config) {
    const model::RopeScaling& scaling = config.rope_scaling;
    std::vector<double> frequencies(config.head_size / 2);
    for (std::size_t j = 0; j < frequencies.size(); ++j) {
        const double exponent = -2.0 * static_cast<double>(j) / static_cast<double>(config.head_size);
        double frequency = static_cast<float>(std::pow(config.rope_theta, exponent));
        if (scaling.kind == model::RopeScaling::Kind::Linear) frequency /= scaling.factor;
        if (scaling.kind == model::RopeScaling::Kind::Llama3) frequency = stretched(scaling, frequency);
        frequencies[j] = static_cast<float>(frequency);
    }
    return frequencies;
}

}  // namespace fedllm::client::engine
