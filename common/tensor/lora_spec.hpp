// What a low-rank adapter is (Hu et al. 2021; rsLoRA: Kalajdzievski 2023; frozen A: FFA-LoRA, Sun et al.
// 2024, 2403.12313): said by the job, obeyed by the client.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fedllm::tensor {

// A module whose rank or alpha is not the adapter's: PEFT's rank_pattern and alpha_pattern, resolved.
struct LoraModule {
    std::string path;  // "model.layers.0.self_attn.q_proj"
    std::uint32_t rank = 0;
    double alpha = 0;

    bool operator==(const LoraModule&) const = default;
};

struct LoraSpec {
    std::uint32_t rank = 16;
    double alpha = 32;
    bool rslora = false;                      // scale by alpha / sqrt(rank) instead of alpha / rank
    std::vector<std::string> target_modules;  // last parts of module paths ("q_proj"), or whole paths
    std::vector<LoraModule> modules{};        // the exceptions, in the order of their paths
    bool freeze_a = false;                    // only B is trained, A stays as the seed made it

    double scale() const { return scale_by(rank, alpha); }

    // Rank and alpha of one module, by its path.
    LoraModule module(std::string_view path) const {
        const auto found = std::lower_bound(
            modules.begin(), modules.end(), path,
            [](const LoraModule& module, std::string_view wanted) { return module.path < wanted; });
        if (found != modules.end() && found->path == path) return *found;
        return {std::string(path), rank, alpha};
    }
    double scale_by(std::uint32_t module_rank, double module_alpha) const {
        return module_alpha / (rslora ? std::sqrt(static_cast<double>(module_rank)) : module_rank);
    }

    bool operator==(const LoraSpec&) const = default;
};

// What each module's B A x is multiplied by. Converts from a number, the same for all, and from a spec.
class LoraScales {
public:
    LoraScales(double everywhere = 1.0) : everywhere_(everywhere) {}
    LoraScales(const LoraSpec& spec) : everywhere_(spec.scale()) {
        for (const auto& m : spec.modules) modules_[m.path] = spec.scale_by(m.rank, m.alpha);
    }

    double of(std::string_view module_path) const {
        const auto found = modules_.find(module_path);
        return found == modules_.end() ? everywhere_ : found->second;
    }

private:
    double everywhere_;
    std::map<std::string, double, std::less<>> modules_;
};

}  // namespace fedllm::tensor
