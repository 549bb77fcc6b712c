#include "common/formats/peft_names.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <set>
#include <tuple>

#include "common/formats/json.hpp"

namespace fedllm::formats {
namespace {

using tensor::TensorSpec;

constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kSuffixA = ".lora_A.weight";
constexpr std::string_view kSuffixB = ".lora_B.weight";
// Ends of module paths, in the order of a layer.
constexpr std::array<std::string_view, 11> kOrder{"q_proj", "k_proj",      "v_proj",    "c_attn",
                                                  "o_proj", "attn.c_proj", "gate_proj", "up_proj",
                                                  "c_fc",   "down_proj",   "mlp.c_proj"};
constexpr std::array<std::string_view, 3> kConv1d{"c_attn", "c_proj", "c_fc"};  // GPT-2's

std::string_view last_part(std::string_view module) { return module.substr(module.rfind('.') + 1); }

// PEFT's rule: a target is the whole module path or its end at a dot.
bool matches(std::string_view module, std::string_view target) {
    if (!module.ends_with(target)) return false;
    return module.size() == target.size() || module[module.size() - target.size() - 1] == '.';
}

// (path before the layer number, layer number, projection, module, B after A): "layers.10" comes after
// "layers.9".
using SortKey = std::tuple<std::string_view, std::uint64_t, std::size_t, std::string_view, bool>;

SortKey sort_key(std::string_view name) {
    const auto parsed = parse_adapter_name(name).value();
    const auto module = parsed.module;
    const auto digit = module.find_first_of("0123456789");
    std::string_view before = module;
    std::uint64_t layer = 0;
    if (digit != module.npos) {
        before = module.substr(0, digit);
        std::from_chars(module.data() + digit, module.data() + module.size(), layer);
    }
    const auto* const place = std::find_if(kOrder.begin(), kOrder.end(),
                                           [&](std::string_view end) { return matches(module, end); });
    const auto projection = static_cast<std::size_t>(place - kOrder.begin());
    return {digit == module.npos ? std::string_view() : before, layer, projection, module, !parsed.is_a};
}

}  // namespace

Result<AdapterName> parse_adapter_name(std::string_view name) {
    const auto fail = [&](Errc code, const std::string& what) {
        return make_error(code, "tensor " + in_quotes(name) + ": " + what);
    };
    if (name.find("lora_magnitude_vector") != name.npos) {
        return fail(Errc::Unsupported, "DoRA adapters are not supported, only plain LoRA");
    }
    if (name.find("lora_embedding_") != name.npos) {
        return fail(Errc::Unsupported, "LoRA on embeddings is not supported, only on linear layers");
    }
    if (name.find(".base_layer.") != name.npos) {
        return fail(Errc::Unsupported,
                    "a weight of the base model in an adapter, as for LoRA on embeddings, is not supported");
    }
    const bool is_a = name.ends_with(kSuffixA);
    if (name.starts_with(kPrefix) && (is_a || name.ends_with(kSuffixB))) {
        const auto module = name.substr(kPrefix.size());
        if (module.size() > kSuffixA.size()) {
            return AdapterName{module.substr(0, module.size() - kSuffixA.size()), is_a};
        }
    }
    return fail(Errc::InvalidFile,
                "adapter tensors are named base_model.model.<module>.lora_A.weight or "
                "...lora_B.weight");
}

void sort_adapter_tensors(std::vector<TensorSpec>& tensors) {
    std::sort(tensors.begin(), tensors.end(),
              [](const TensorSpec& a, const TensorSpec& b) { return sort_key(a.name) < sort_key(b.name); });
}

bool is_conv1d(std::string_view module) {
    return std::find(kConv1d.begin(), kConv1d.end(), last_part(module)) != kConv1d.end();
}

std::vector<std::string> module_names(std::span<const TensorSpec> tensors) {
    std::vector<std::string> names;
    for (const TensorSpec& spec : tensors) {
        const std::string name(last_part(parse_adapter_name(spec.name).value().module));
        if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
    return names;
}

std::vector<std::string> module_paths(std::span<const TensorSpec> tensors) {
    std::vector<std::string> paths;
    std::set<std::string_view> seen;
    for (const TensorSpec& spec : tensors) {
        const auto module = parse_adapter_name(spec.name).value().module;
        if (seen.insert(module).second) paths.emplace_back(module);
    }
    return paths;
}

Result<void> check_adapter(std::span<const TensorSpec> tensors, const tensor::LoraSpec& spec) {
    std::map<std::string_view, std::pair<bool, bool>> modules;  // which of A and B are there
    std::vector<bool> used(spec.target_modules.size());
    for (const TensorSpec& tensor : tensors) {
        const auto fail = [&](const std::string& what) {
            return make_error(Errc::ManifestMismatch, "tensor " + tensor::describe(tensor) + ": " + what);
        };
        FEDLLM_TRY(const AdapterName name, parse_adapter_name(tensor.name));
        if (tensor.shape.size() != 2) return fail("adapter tensors have two dimensions");
        if (const auto rank = spec.module(name.module).rank; tensor.shape[name.is_a ? 0 : 1] != rank) {
            return fail("its rank differs from the configured one, " + std::to_string(rank));
        }
        bool is_target = false;
        for (std::size_t i = 0; i < used.size(); ++i) {
            if (!matches(name.module, spec.target_modules[i])) continue;
            is_target = used[i] = true;
        }
        if (!is_target) return fail("not in one of the target modules");
        auto& pair = modules[name.module];
        (name.is_a ? pair.first : pair.second) = true;
    }
    for (const auto& [module, pair] : modules) {
        if (pair.first && pair.second) continue;
        return make_error(Errc::ManifestMismatch, "module " + in_quotes(module) + " has only one of A and B");
    }
    for (std::size_t i = 0; i < used.size(); ++i) {
        if (used[i]) continue;
        return make_error(Errc::ManifestMismatch,
                          "target module " + in_quotes(spec.target_modules[i]) + " has no tensors");
    }
    return {};
}

}  // namespace fedllm::formats
