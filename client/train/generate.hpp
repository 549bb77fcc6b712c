// Generation: continues a text, greedily or by sampling.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "client/engine/network.hpp"
#include "common/base/result.hpp"
#include "common/tensor/param_set.hpp"
#include "kernels/device/thread_pool.hpp"

namespace fedllm::client::train {

struct GenerateOptions {
    std::size_t new_tokens_max = 100;
    double temperature = 0;  // 0: always the likeliest token
    std::size_t top_k = 0;   // sample among the k likeliest; 0: among all
    double top_p = 1;        // and of those among the likeliest that make up this share of the probability
    std::uint64_t seed = 1;
    std::vector<std::int32_t> stop;  // tokens that end the text; not part of the answer
};

// Is told each token as it is drawn, and says whether to go on. A token it stops at is part of the answer.
using OnToken = std::function<bool(std::int32_t)>;

// The tokens that follow `prompt` (at least one token, with BOS where the model wants one). Ends early at a
// stop token or when the model's context is full. The same options give the same tokens on every machine with
// the same instruction set, whatever the number of threads.
Result<std::vector<std::int32_t>> generate(kernels::ThreadPool& pool, const engine::Network& network,
                                           const tensor::ParamSet& params,
                                           std::span<const std::int32_t> prompt,
                                           const GenerateOptions& options, const OnToken& on_token = {});

}  // namespace fedllm::client::train
