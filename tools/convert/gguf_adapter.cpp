#include "tools/convert/gguf_adapter.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace fedllm::tools::convert {
namespace {

using client::model::ModelConfig;
using formats::GgufTensor;
using formats::GgufType;
using formats::GgufValue;

struct Architecture {
    std::string_view model_type;  // in config.json
    std::string_view name;        // in GGUF
    std::string_view blocks;      // the module path before the layer's number
    bool permuted;                // q and k rotate neighbours, not halves
};
constexpr std::array kArchitectures{
    Architecture{"llama", "llama", "model.layers.", true},
    Architecture{"mistral", "llama", "model.layers.", true},
    Architecture{"qwen2", "qwen2", "model.layers.", false},
    Architecture{"qwen3", "qwen3", "model.layers.", false},
    Architecture{"gpt2", "gpt2", "transformer.h.", false},
};

struct ModuleName {
    std::string_view module, gguf;
};
constexpr std::array kModules{
    ModuleName{"self_attn.q_proj", "attn_q"}, ModuleName{"self_attn.k_proj", "attn_k"},
    ModuleName{"self_attn.v_proj", "attn_v"}, ModuleName{"self_attn.o_proj", "attn_output"},
    ModuleName{"mlp.gate_proj", "ffn_gate"},  ModuleName{"mlp.up_proj", "ffn_up"},
    ModuleName{"mlp.down_proj", "ffn_down"},  ModuleName{"attn.c_attn", "attn_qkv"},
    ModuleName{"attn.c_proj", "attn_output"}, ModuleName{"mlp.c_fc", "ffn_up"},
    ModuleName{"mlp.c_proj", "ffn_down"},
};

std::optional<Architecture> architecture_of(const ModelConfig& config) {
    for (const Architecture& known : kArchitectures) {
        if (known.model_type == config.family->model_type) return known;
    }
    return std::nullopt;
}

// "model.layers.3.self_attn.q_proj" -> "blk.3.attn_q.weight"; "" where it has none.
std::string gguf_name(std::string_view module, const Architecture& architecture) {
    if (module == "lm_head") return "output.weight";
    if (!module.starts_with(architecture.blocks)) return "";
    const std::string_view rest = module.substr(architecture.blocks.size());
    const auto dot = rest.find('.');
    if (dot == rest.npos || dot == 0 || rest.find_first_not_of("0123456789") != dot) return "";
    for (const ModuleName& known : kModules) {
        if (known.module != rest.substr(dot + 1)) continue;
        return "blk." + std::string(rest.substr(0, dot)) + "." + std::string(known.gguf) + ".weight";
    }
    return "";
}

// Row 2j + half of a head comes from row half * D/2 + j: neighbours instead of halves.
std::vector<float> permuted_rows(std::span<const float> rows, std::size_t heads, std::size_t head_size,
                                 std::size_t width) {
    std::vector<float> out(rows.size());
    for (std::size_t head = 0; head < heads; ++head) {
        for (std::size_t to = 0; to < head_size; ++to) {
            const std::size_t from = to % 2 * (head_size / 2) + to / 2;
            std::copy_n(rows.begin() + static_cast<std::ptrdiff_t>((head * head_size + from) * width), width,
                        out.begin() + static_cast<std::ptrdiff_t>((head * head_size + to) * width));
        }
    }
    return out;
}

// What the file's alpha makes of the module's B must be its own scale: the factor that does that.
double leftover(const tensor::LoraSpec& spec, const tensor::LoraModule& module, float file_alpha) {
    const double wanted = spec.scale_by(module.rank, module.alpha);
    const double given = file_alpha == 0.0F ? 1.0 : static_cast<double>(file_alpha) / module.rank;
    return wanted == given || std::abs(wanted / given - 1) < 1e-7 ? 1.0 : wanted / given;
}

class Converter {
public:
    Converter(const formats::LoadedAdapter& adapter, const ModelConfig& config,
              const Architecture& architecture, GgufType type)
        : adapter_(adapter), config_(config), architecture_(architecture), type_(type) {}

    // The base tensors in the file keep 0 for alpha as "scale 1", so a scale of zero lives in B alone.
    float file_alpha() const {
        const auto& spec = adapter_.spec;
        return static_cast<float>(spec.scale() * spec.rank);
    }

    Result<GgufTensor> convert(std::size_t index) const {
        constexpr std::string_view kPrefix = "base_model.model.";
        constexpr std::string_view kSuffix = ".lora_A.weight";
        const auto& tensor = adapter_.parameters.manifest().tensors()[index];
        const bool is_a = tensor.name.ends_with(kSuffix);
        const std::string module =
            tensor.name.substr(kPrefix.size(), tensor.name.size() - kPrefix.size() - kSuffix.size());
        const std::string base = gguf_name(module, architecture_);
        if (base.empty()) {
            return make_error(Errc::Unsupported, "module " + module + " has no name in GGUF for " +
                                                     std::string(architecture_.name));
        }
        const auto source = adapter_.parameters.tensor(index);
        std::vector<float> values(source.begin(), source.end());
        if (!is_a) FEDLLM_TRY_VOID(arrange_b(module, tensor, values));
        GgufTensor out{base + (is_a ? ".lora_a" : ".lora_b"), tensor.shape, type_, {}};
        FEDLLM_TRY(out.bytes, formats::gguf_bytes(values, type_, out.name));
        return out;
    }

private:
    Result<void> arrange_b(const std::string& module, const tensor::TensorSpec& tensor,
                           std::vector<float>& values) const {
        const double factor = leftover(adapter_.spec, adapter_.spec.module(module), file_alpha());
        for (float& value : values) value = static_cast<float>(value * factor);
        const bool q = module.ends_with(".q_proj");
        if (!architecture_.permuted || (!q && !module.ends_with(".k_proj"))) return {};
        const std::size_t heads = q ? config_.heads : config_.kv_heads;
        if (tensor.shape[0] != heads * config_.head_size) {
            return make_error(Errc::ManifestMismatch, "tensor " + tensor::describe(tensor) +
                                                          ": the model has " + std::to_string(heads) +
                                                          " heads of " + std::to_string(config_.head_size));
        }
        values = permuted_rows(values, heads, config_.head_size, tensor.shape[1]);
        return {};
    }

    const formats::LoadedAdapter& adapter_;
    const ModelConfig& config_;
    Architecture architecture_;
    GgufType type_;
};

}  // namespace

Result<void> write_gguf_adapter(const Path& path, const formats::LoadedAdapter& adapter,
                                const ModelConfig& config, GgufType type) {
    const auto architecture = architecture_of(config);
    if (!architecture) {
        return make_error(Errc::Unsupported, path.string() + ": adapters of model type '" +
                                                 std::string(config.family->model_type) +
                                                 "' have no GGUF form here; llama, mistral, qwen2, qwen3 and "
                                                 "gpt2 have");
    }
    const Converter converter(adapter, config, *architecture, type);
    std::vector<GgufTensor> tensors;
    for (std::size_t i = 0; i < adapter.parameters.manifest().tensors().size(); ++i) {
        auto tensor = converter.convert(i);
        if (!tensor) return with_context(tensor.error(), path.string());
        tensors.push_back(*std::move(tensor));
    }
    const std::vector<std::pair<std::string, GgufValue>> keys{
        {"general.architecture", std::string(architecture->name)},
        {"general.type", std::string("adapter")},
        {"general.file_type", static_cast<std::uint32_t>(type)},
        {"adapter.type", std::string("lora")},
        {"adapter.lora.alpha", converter.file_alpha()},
    };
    return formats::write_gguf(path, keys, tensors);
}

}  // namespace fedllm::tools::convert
