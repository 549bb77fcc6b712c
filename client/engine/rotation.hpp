// Rotary position embedding of a model: its tables, scaled as its configuration says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "client/model/model_config.hpp"
#include "kernels/rope/op.hpp"

namespace fedllm::client::engine {

// Turns nothing for families with learned positions.
class Rotation {
public:
    Rotation() = default;
    Rotation(const model::ModelConfig& config, std::size_t positions);

    // x (M, heads*D), in place; positions (M), all below the number given at construction.
    void turn(kernels::ThreadPool& pool, kernels::Matrix x, const std::int32_t* positions,
              kernels::Turn direction) const;

private:
    std::size_t head_size_ = 0;         // 0: nothing is turned
    std::vector<float> cosine_, sine_;  // (positions, D/2)
};

}  // namespace fedllm::client::engine
