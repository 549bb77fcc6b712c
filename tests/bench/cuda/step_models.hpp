// What step_bench trains: the shapes of real models with random weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "client/engine/engine.hpp"
#include "client/model/weights.hpp"
#include "common/tensor/lora_spec.hpp"

namespace fedllm::bench {

struct StepModel {
    std::string name;
    client::model::ModelConfig config;
    std::size_t rows = 0, tokens = 0;  // of a step
    tensor::LoraSpec lora;             // on all seven projections

    std::size_t step_tokens() const { return rows * tokens; }
    // Multiplications and additions of one step: products 2 each forward and 2 for d(input), of adapters 2
    // more for their gradients; causal attention is half of T x T, with 2 products forward and 5 backward.
    double operations() const;
    tensor::ParamSet params() const;
};

StepModel llama_8b();
StepModel llama_1b();
StepModel smollm2_135m();
StepModel tiny_model();  // to try the benchmark itself

// Frozen weights. Every matrix is a window, at a place of its own, into one pool of random values: what a GPU
// does with them does not depend on which they are, and the host needs memory for the largest alone.
// Lifecycle: the views point into it. Concurrency: immutable.
class RandomBase {
public:
    // `linear` is how linear layers are stored (BF16 or NF4); tables are bf16, norms ones.
    RandomBase(const StepModel& model, kernels::WeightType linear, kernels::Operands operands);
    RandomBase(const RandomBase&) = delete;
    const client::model::ModelWeights& weights() const { return weights_; }

private:
    kernels::WeightView window(std::size_t rows, std::size_t cols, kernels::WeightType type);

    std::vector<std::uint16_t> values_;  // bf16
    std::vector<std::uint64_t> codes_;   // any bits are codes
    std::vector<float> scales_, ones_;
    std::size_t next_ = 0;
    client::model::ModelWeights weights_;
};

struct RandomBatch {
    explicit RandomBatch(const StepModel& model);
    client::engine::BatchView view() const {
        return {rows, tokens_per_row, tokens, targets, positions, first_key};
    }
    std::size_t rows, tokens_per_row;
    std::vector<std::int32_t> tokens, targets, positions, first_key;
};

}  // namespace fedllm::bench
