#include "tests/client/cuda_engine/outcome.hpp"

#include <cmath>
#include <istream>
#include <limits>
#include <ostream>
#include <sstream>

#include "common/base/philox.hpp"

namespace fedllm::client::cuda_engine::cases {
namespace {

// With an epsilon far above every gradient and no moments yet, AdamW subtracts rate / epsilon * gradient.
void measure_gradient(engine::Engine& engine, const Setting& setting, Outcome& outcome) {
    constexpr double kEpsilon = 1e6;
    const tensor::ParamSet before = setting.params();
    tensor::ParamSet after = before;
    const Setting::Batch batch = setting.batch(1, setting.scenario().rows);
    engine.begin_training(after).value();
    engine.start(batch.view(), {{.learning_rate = 64 * kEpsilon, .epsilon = kEpsilon}, 1, 0.0}).value();
    outcome["gradient_norm"] = {engine.finish().value().gradient_norm};
    engine.end_training().value();
    for (std::size_t i = 0; i < before.manifest().tensors().size(); ++i) {
        const std::string& name = before.manifest().tensors()[i].name;
        std::vector<float> gradient;
        for (std::size_t e = 0; e < before.tensor(i).size(); ++e)
            gradient.push_back((before.tensor(i)[e] - after.tensor(i)[e]) / 64);
        outcome["gradient " + name] = sketch(gradient, name);
    }
}

void measure_training(engine::Engine& engine, const Setting& setting, Outcome& outcome) {
    tensor::ParamSet params = setting.params();
    engine.begin_training(params).value();
    for (int step = 1; step <= setting.scenario().steps; ++step) {
        const Setting::Batch batch =
            setting.batch(static_cast<std::uint64_t>(step % 3), setting.scenario().rows);
        const auto number = static_cast<std::uint64_t>(step);
        engine.start(batch.view(), {{.learning_rate = 3e-3, .weight_decay = 0.01}, number, 1.0}).value();
        const engine::StepReport report = engine.finish().value();
        outcome["step_losses"].push_back(report.loss.loss_sum / static_cast<double>(report.loss.tokens));
        outcome["step_norms"].push_back(report.gradient_norm);
    }
    engine.end_training().value();
}

}  // namespace

Outcome measure_evaluation(engine::Engine& engine, const Setting& setting) {
    Outcome outcome;
    const tensor::ParamSet params = setting.params();
    const Setting::Batch batch = setting.batch(1, setting.scenario().micro_rows);
    engine.begin_evaluation(params).value();
    const engine::StepResult loss = engine.loss(batch.view()).value();
    outcome["loss"] = {loss.loss_sum, static_cast<double>(loss.tokens)};
    outcome["losses"].assign(engine.losses().begin(), engine.losses().end());
    const std::size_t vocab = setting.scenario().config.vocab;
    const std::vector<std::int32_t> places{0, static_cast<std::int32_t>(batch.tokens.size() - 1)};
    std::vector<float> logits(places.size() * vocab);
    engine.logits(batch.view(), places, {logits.data(), places.size(), vocab}).value();
    outcome["logits"].assign(logits.begin(), logits.end());
    return outcome;
}

Outcome measure_steps(engine::Engine& engine, const Setting& setting) {
    Outcome outcome;
    measure_gradient(engine, setting, outcome);
    measure_training(engine, setting, outcome);
    return outcome;
}

Outcome measure(engine::Engine& engine, const Setting& setting) {
    Outcome outcome = measure_evaluation(engine, setting);
    outcome.merge(measure_steps(engine, setting));
    return outcome;
}

std::vector<double> sketch(std::span<const float> values, const std::string& name) {
    std::vector<double> numbers(1 + kProjections);
    Rng rng(11, name);
    for (const float value : values) {
        numbers[0] += double{value} * value;
        const std::uint32_t signs = rng.next_u32();
        for (std::size_t p = 0; p < kProjections; ++p)
            numbers[1 + p] += (signs >> p & 1) != 0 ? double{value} : -double{value};
    }
    numbers[0] = std::sqrt(numbers[0]);
    return numbers;
}

double distance(const std::vector<double>& got, const std::vector<double>& want) {
    if (got.size() != want.size()) return std::numeric_limits<double>::infinity();
    double size = 0, difference = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
        size += want[i] * want[i];
        difference += (got[i] - want[i]) * (got[i] - want[i]);
    }
    return std::sqrt(size == 0 ? difference : difference / size);
}

// scenario, name and numbers, one outcome a line, separated by tabs.
void write(std::ostream& out, const std::map<std::string, Outcome>& outcomes) {
    out.precision(9);
    for (const auto& [scenario, outcome] : outcomes) {
        for (const auto& [name, numbers] : outcome) {
            out << scenario << '\t' << name;
            for (const double number : numbers) out << '\t' << number;
            out << '\n';
        }
    }
}

std::map<std::string, Outcome> read(std::istream& in) {
    std::map<std::string, Outcome> outcomes;
    for (std::string line; std::getline(in, line);) {
        std::istringstream fields(line);
        std::string scenario, name, number;
        std::getline(fields, scenario, '\t');
        std::getline(fields, name, '\t');
        std::vector<double>& numbers = outcomes[scenario][name];
        while (std::getline(fields, number, '\t')) numbers.push_back(std::stod(number));
    }
    return outcomes;
}

}  // namespace fedllm::client::cuda_engine::cases
