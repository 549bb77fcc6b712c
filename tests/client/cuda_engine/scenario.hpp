// Tiny random models, what is trained of them and with what, for two engines to be compared on.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "client/engine/engine.hpp"
#include "common/tensor/lora_spec.hpp"

namespace fedllm::client::cuda_engine::cases {

// Adapters, all tensors, or some of these.
enum class Trained : std::uint8_t { Lora, Full, Some };

struct Scenario {
    std::string name;
    model::ModelConfig config;
    kernels::WeightType base = kernels::WeightType::BF16;  // of linear layers
    kernels::Operands operands = kernels::Operands::F32;   // of products with those and the head
    bool quantised = false;  // base is NF4, of the values that a bf16 base has; else codes are drawn
    float spread = 0.2F;     // of the frozen matrices' values
    Trained trained = Trained::Lora;
    tensor::LoraSpec lora{.rank = 3, .alpha = 6, .target_modules = {}};  // no modules named: all
    std::vector<std::string> some;                                       // tensors, of Trained::Some
    std::size_t rows = 2;                                                // of a batch
    std::size_t micro_rows = 2;
    std::size_t tokens = 24;
    bool packed = false;  // two documents in a row
    int steps = 10;
    engine::Keep keep = engine::Keep::Activations;
};
std::vector<Scenario> scenarios();
const Scenario& scenario(const std::vector<Scenario>& all, const std::string& name);

// Everything an engine is made of and fed with. Not movable: the network points into it.
class Setting {
public:
    explicit Setting(const Scenario& scenario);
    Setting(const Setting&) = delete;

    engine::Network network() const;
    engine::Limits limits() const;
    std::vector<engine::Run> frozen() const;  // with LoraSpec::freeze_a
    tensor::ParamSet params() const { return params_; }

    struct Batch {
        std::size_t rows = 0, tokens_per_row = 0;
        std::vector<std::int32_t> tokens, targets, positions, first_key;
        engine::BatchView view() const {
            return {rows, tokens_per_row, tokens, targets, positions, first_key};
        }
    };
    Batch batch(std::uint64_t seed, std::size_t rows) const;
    const Scenario& scenario() const { return scenario_; }

private:
    void make_base();
    kernels::WeightView matrix(std::size_t rows, std::size_t cols, kernels::WeightType type,
                               const std::string& name);
    void make_params();

    Scenario scenario_;
    std::vector<std::unique_ptr<unsigned char[]>> memory_;
    model::ModelWeights base_;
    tensor::ParamSet params_;
};

}  // namespace fedllm::client::cuda_engine::cases
