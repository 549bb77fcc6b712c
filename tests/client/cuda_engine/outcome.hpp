// What an engine makes of a scenario, in few numbers, and as text for tests/golden.
#pragma once

#include <iosfwd>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "tests/client/cuda_engine/scenario.hpp"

namespace fedllm::client::cuda_engine::cases {

// By name: "loss", "losses", "logits", "step_losses", "step_norms", "gradient NAME".
using Outcome = std::map<std::string, std::vector<double>>;

// Evaluates, takes one step that shows the gradient, and trains for some.
Outcome measure(engine::Engine& engine, const Setting& setting);
Outcome measure_evaluation(engine::Engine& engine, const Setting& setting);
Outcome measure_steps(engine::Engine& engine, const Setting& setting);

// The norm of a tensor, and its projections on kProjections random vectors of length 1: two tensors differ by
// about the root of the mean square of the differences of these, times the root of the number of elements.
constexpr std::size_t kProjections = 16;
std::vector<double> sketch(std::span<const float> values, const std::string& name);

// Of two vectors, relative to the length of the second; infinite between different sizes.
double distance(const std::vector<double>& got, const std::vector<double>& want);

void write(std::ostream& out, const std::map<std::string, Outcome>& outcomes);
std::map<std::string, Outcome> read(std::istream& in);

}  // namespace fedllm::client::cuda_engine::cases
