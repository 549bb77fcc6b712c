// Small random models and batches for the tests of client/engine and client/train.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "client/engine/transformer.hpp"
#include "client/model/manifests.hpp"
#include "client/model/weights.hpp"
#include "common/base/philox.hpp"
#include "kernels/cross_entropy/op.hpp"

namespace fedllm::client::engine::testing {

inline model::ModelConfig tiny_config() {
    model::ModelConfig config;
    config.hidden = 24;
    config.layers = 3;
    config.heads = 4;
    config.kv_heads = 2;
    config.head_size = 8;  // heads * head_size != hidden
    config.intermediate = 40;
    config.vocab = 300;
    config.context = 64;
    config.norm_epsilon = 1e-5F;
    return config;
}

// Biases and norms away from their trivial values, weights large enough that every part matters.
inline tensor::ParamSet random_full(const model::ModelConfig& config, std::uint64_t seed) {
    tensor::ParamSet params(model::full_manifest(config));
    for (std::size_t i = 0; i < params.manifest().tensors().size(); ++i) {
        const std::string& name = params.manifest().tensors()[i].name;
        Rng rng(seed, name);
        for (float& value : params.tensor(i)) {
            value = name.ends_with("norm.weight") ? rng.uniform(0.5F, 1.5F) : 0.25F * rng.normal();
        }
    }
    return params;
}

inline tensor::LoraSpec all_targets(std::uint32_t rank = 3) {
    return {.rank = rank,
            .alpha = 2.0 * rank,
            .target_modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}};
}

// B is not zero: otherwise A would have no gradient.
inline tensor::ParamSet random_lora(const model::ModelConfig& config, const tensor::LoraSpec& spec,
                                    std::uint64_t seed) {
    tensor::ParamSet params = model::initial_lora(model::lora_manifest(config, spec).value(), seed);
    Rng rng(seed, "lora");
    for (float& value : params.values()) value += 0.1F * rng.normal();
    return params;
}

struct OwnedBatch {
    std::size_t rows = 0, tokens_per_row = 0;
    std::vector<std::int32_t> tokens, targets, positions, first_key;

    BatchView view() const { return {rows, tokens_per_row, tokens, targets, positions, first_key}; }
};

// Whole rows of one document each, every fifth target ignored.
inline OwnedBatch random_batch(std::size_t rows, std::size_t tokens, std::size_t vocab, std::uint64_t seed) {
    OwnedBatch batch{rows, tokens, {}, {}, {}, {}};
    Rng rng(seed, "batch");
    for (std::size_t i = 0; i < rows * tokens; ++i) {
        batch.tokens.push_back(static_cast<std::int32_t>(rng.below(vocab)));
        batch.targets.push_back(i % 5 == 3 ? kernels::kIgnoreIndex
                                           : static_cast<std::int32_t>(rng.below(vocab)));
        batch.positions.push_back(static_cast<std::int32_t>(i % tokens));
        batch.first_key.push_back(0);
    }
    return batch;
}

}  // namespace fedllm::client::engine::testing
