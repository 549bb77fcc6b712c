// What a low-rank adapter is (Hu et al. 2021; rsLoRA: Kalajdzievski 2023): said by the job, obeyed by the
// client.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace fedllm::tensor {

struct LoraSpec {
    std::uint32_t rank = 16;
    double alpha = 32;
    bool rslora = false;                      // scale by alpha / sqrt(rank) instead of alpha / rank
    std::vector<std::string> target_modules;  // last parts of module paths: "q_proj", "v_proj", ...

    double scale() const { return rslora ? alpha / std::sqrt(static_cast<double>(rank)) : alpha / rank; }
    bool operator==(const LoraSpec&) const = default;
};

}  // namespace fedllm::tensor
