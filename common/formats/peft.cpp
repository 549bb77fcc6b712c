#include "common/formats/peft.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "common/formats/json.hpp"
#include "common/formats/peft_names.hpp"
#include "common/formats/peft_patterns.hpp"
#include "common/formats/safetensors.hpp"

namespace fedllm::formats {
namespace {

using Json = nlohmann::json;
using tensor::DType;
using tensor::LoraSpec;
using tensor::Manifest;
using tensor::ParamSet;

constexpr const char* kConfigName = "adapter_config.json";
constexpr const char* kWeightsName = "adapter_model.safetensors";
constexpr std::uint32_t kRankMax = 1 << 16;

// Keys that make an adapter more than plain LoRA unless they are null, false or empty.
constexpr std::array<const char*, 14> kMustBeOff{
    "use_dora",          "lora_bias",         "modules_to_save",
    "use_qalora",        "layer_replication", "trainable_token_indices",
    "target_parameters", "megatron_config",   "alora_invocation_tokens",
    "arrow_config",      "use_bdlora",        "monteclora_config",
    "velora_config",     "kasa_config"};

bool is_off(const Json& value) {
    if (value.is_boolean()) return !value.get<bool>();
    return value.is_null() || (value.is_structured() && value.empty());
}

// How an adapter started matters only where the method also changed the base weights (PiSSA, OLoRA, LoftQ,
// ...).
bool leaves_base_alone(const Json& init) {
    return init.is_boolean() || init == "gaussian" || init == "eva" || init == "orthogonal";
}

class ConfigReader {
public:
    // `text` is what `config` was parsed from: in the patterns the order of the file counts.
    ConfigReader(const Json& config, std::string_view text, std::string source)
        : config_(config), text_(text), source_(std::move(source)) {}

    Error error(Errc code, const char* key, const std::string& what) const {
        return make_error(code, source_ + ": '" + key + "' " + what);
    }

    Result<void> check_plain_lora() const {
        if (get("peft_type") != "LORA") {
            return error(Errc::Unsupported, "peft_type", "is not \"LORA\", the only type supported");
        }
        for (const char* key : kMustBeOff) {
            if (!is_off(get(key)))
                return error(Errc::Unsupported, key, "is set; only plain LoRA is supported");
        }
        if (const Json bias = get("bias"); !bias.is_null() && bias != "none") {
            return error(Errc::Unsupported, "bias",
                         "is not \"none\"; adapters that train biases are not supported");
        }
        if (const Json init = get("init_lora_weights"); !init.is_null() && !leaves_base_alone(init)) {
            return error(
                Errc::Unsupported, "init_lora_weights",
                "is " + init.dump(-1, ' ', true) + ", which changes the base model's weights as well");
        }
        return {};
    }

    // target_modules stays empty where the tensors must say what they are; see targets_are_names().
    Result<LoraSpec> read_spec() const {
        LoraSpec spec;
        const Json rank = get("r");
        if (!rank.is_number_unsigned() || rank.get<std::uint64_t>() == 0 ||
            rank.get<std::uint64_t>() > kRankMax) {
            return error(Errc::InvalidFile, "r",
                         "must be a whole number from 1 to " + std::to_string(kRankMax));
        }
        spec.rank = rank.get<std::uint32_t>();
        const Json alpha = get("lora_alpha");
        if (!alpha.is_number() || !(std::abs(alpha.get<double>()) <= 1e9)) {
            return error(Errc::InvalidFile, "lora_alpha", "must be a number of at most 1e9");
        }
        spec.alpha = alpha.get<double>();
        const Json rslora = get("use_rslora");
        if (!rslora.is_null() && !rslora.is_boolean()) {
            return error(Errc::InvalidFile, "use_rslora", "must be true or false");
        }
        spec.rslora = rslora == true;
        FEDLLM_TRY(spec.target_modules, read_targets());
        return spec;
    }

    // "all-linear" has its modules in every layer. A regular expression, or names that hold for some layers
    // only, are replaced by the whole paths of the modules found.
    bool targets_are_names() const {
        return (get("target_modules") == "all-linear" || get("target_modules").is_array()) && !selects();
    }

    Result<std::vector<tensor::LoraModule>> read_modules(const Manifest& manifest,
                                                         const LoraSpec& spec) const {
        FEDLLM_TRY(const ModulePatterns ranks, read_patterns("rank_pattern", 1, kRankMax));
        FEDLLM_TRY(const ModulePatterns alphas, read_patterns("alpha_pattern", -1e9, 1e9));
        std::vector<tensor::LoraModule> modules;
        for (std::string& path : module_paths(manifest.tensors())) {
            const double rank = ranks.find(path).value_or(spec.rank);
            if (rank != std::floor(rank)) {
                return error(Errc::InvalidFile, "rank_pattern", "must hold whole numbers");
            }
            const double alpha = alphas.find(path).value_or(spec.alpha);
            if (rank == spec.rank && alpha == spec.alpha) continue;
            modules.push_back({std::move(path), static_cast<std::uint32_t>(rank), alpha});
        }
        const auto by_path = [](const auto& a, const auto& b) { return a.path < b.path; };
        std::sort(modules.begin(), modules.end(), by_path);
        return modules;
    }

    std::string base_model() const {
        const Json name = get("base_model_name_or_path");
        return name.is_string() ? name.get<std::string>() : "";
    }

private:
    Json get(const char* key) const { return config_.value(key, Json()); }

    bool selects() const { return !is_off(get("layers_to_transform")) || !is_off(get("exclude_modules")); }

    Result<ModulePatterns> read_patterns(const char* key, double min, double max) const {
        const auto ordered = nlohmann::ordered_json::parse(text_, nullptr, /*allow_exceptions=*/false);
        auto patterns = ModulePatterns::parse(ordered.value(key, nlohmann::ordered_json()), min, max);
        if (!patterns) return error(patterns.error().code, key, patterns.error().message);
        return patterns;
    }

    Result<std::vector<std::string>> read_targets() const {
        const Json targets = get("target_modules");
        std::vector<std::string> names;
        if (targets.is_string() && !targets.get_ref<const std::string&>().empty()) return names;
        if (!targets.is_array() || targets.empty()) {
            return error(Errc::InvalidFile, "target_modules",
                         "must be a list of module names, a regular expression or \"all-linear\"");
        }
        for (const Json& target : targets) {
            if (!target.is_string() || target.get_ref<const std::string&>().empty()) {
                return error(Errc::InvalidFile, "target_modules", "must hold module names");
            }
            names.push_back(target.get<std::string>());
        }
        if (selects()) names.clear();
        return names;
    }

    const Json& config_;
    std::string_view text_;
    std::string source_;
};

Result<Manifest> manifest_of(const SafetensorsFile& file) {
    std::vector<tensor::TensorSpec> tensors;
    for (const TensorInfo& tensor : file.tensors()) {
        if (tensor.dtype != DType::F32 && tensor.dtype != DType::F16 && tensor.dtype != DType::BF16) {
            return make_error(Errc::Unsupported,
                              "tensor " + describe(tensor) + ": adapters are read as F32, F16 or BF16");
        }
        FEDLLM_TRY_VOID(parse_adapter_name(tensor.name));
        tensors.push_back({tensor.name, tensor.shape});
    }
    sort_adapter_tensors(tensors);
    return Manifest::create(std::move(tensors));
}

Result<ParamSet> read_values(const SafetensorsFile& file, const Manifest& manifest) {
    ParamSet parameters(manifest);
    for (std::size_t i = 0; i < manifest.tensors().size(); ++i) {
        const TensorInfo& tensor = *file.find(manifest.tensors()[i].name);
        const auto values = parameters.tensor(i);
        FEDLLM_TRY_VOID(read_floats(tensor, values));
        if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) {
            return make_error(Errc::NotFinite, "tensor " + describe(tensor) + " holds NaN or infinity");
        }
    }
    return parameters;
}

Json config_json(const LoraSpec& spec, const Manifest& manifest, std::string_view base_model_name) {
    const auto patterns = module_patterns(module_paths(manifest.tensors()), spec);
    return {
        {"peft_type", "LORA"},
        {"task_type", "CAUSAL_LM"},
        {"base_model_name_or_path", base_model_name},
        {"r", spec.rank},
        {"lora_alpha", json_number(spec.alpha)},
        {"use_rslora", spec.rslora},
        {"target_modules", spec.target_modules},
        {"lora_dropout", 0.0},
        {"bias", "none"},
        {"fan_in_fan_out", std::any_of(spec.target_modules.begin(), spec.target_modules.end(), is_conv1d)},
        {"inference_mode", true},
        {"init_lora_weights", true},
        {"modules_to_save", nullptr},
        {"use_dora", false},
        {"rank_pattern", patterns.rank},
        {"alpha_pattern", patterns.alpha},
        {"layers_to_transform", nullptr},
        {"layers_pattern", nullptr},
        {"revision", nullptr},
        {"auto_mapping", nullptr}};
}

}  // namespace

namespace {

Result<void> check_writable(const Path& folder, const tensor::Manifest& manifest, const LoraSpec& spec) {
    if (auto checked = check_adapter(manifest.tensors(), spec); !checked) {
        return with_context(make_error(Errc::ManifestMismatch, checked.error().message), folder.string());
    }
    if (manifest.tensors().empty()) {
        return make_error(Errc::ManifestMismatch, folder.string() + ": an adapter without tensors");
    }
    return make_directories(folder);
}

// The name may be any path on this machine: bytes that are not UTF-8 are replaced rather than refused.
Result<void> write_config(const Path& folder, const tensor::Manifest& manifest, const LoraSpec& spec,
                          std::string_view base_model_name) {
    const Json config = config_json(spec, manifest, base_model_name);
    return write_file_atomically(folder / kConfigName,
                                 config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace

Result<void> write_peft_adapter(const Path& folder, const ParamSet& parameters, const LoraSpec& spec,
                                std::string_view base_model_name) {
    const auto& manifest = parameters.manifest();
    FEDLLM_TRY_VOID(check_writable(folder, manifest, spec));
    std::vector<TensorToWrite> tensors;
    for (std::size_t i = 0; i < manifest.tensors().size(); ++i) {
        const auto& tensor = manifest.tensors()[i];
        tensors.push_back({tensor.name, DType::F32, tensor.shape, std::as_bytes(parameters.tensor(i))});
    }
    FEDLLM_TRY_VOID(write_safetensors(folder / kWeightsName, tensors, {{"format", "pt"}}));
    return write_config(folder, manifest, spec, base_model_name);
}

Result<void> write_peft_adapter(const Path& folder, const tensor::Manifest& manifest,
                                std::span<const std::byte> weights, const LoraSpec& spec,
                                std::string_view base_model_name) {
    FEDLLM_TRY_VOID(check_writable(folder, manifest, spec));
    FEDLLM_TRY_VOID(write_file_atomically(folder / kWeightsName, weights));
    return write_config(folder, manifest, spec, base_model_name);
}

Result<LoadedAdapter> read_peft_adapter(const Path& folder) {
    const std::string config_path = (folder / kConfigName).string();
    FEDLLM_TRY(const std::string text, read_file(config_path, std::size_t{1} << 20));
    FEDLLM_TRY(const Json config, parse_json(text, config_path));
    if (!config.is_object()) return make_error(Errc::InvalidFile, config_path + ": expected a JSON object");
    const ConfigReader reader(config, text, config_path);
    FEDLLM_TRY_VOID(reader.check_plain_lora());
    LoadedAdapter adapter;
    FEDLLM_TRY(adapter.spec, reader.read_spec());
    adapter.base_model = reader.base_model();

    const Path weights_path = folder / kWeightsName;
    FEDLLM_TRY(const SafetensorsFile file, SafetensorsFile::open(weights_path));
    const auto manifest = manifest_of(file);
    if (!manifest) return with_context(manifest.error(), weights_path.string());
    if (adapter.spec.target_modules.empty()) {
        adapter.spec.target_modules = reader.targets_are_names() ? module_names(manifest->tensors())
                                                                 : module_paths(manifest->tensors());
    }
    FEDLLM_TRY(adapter.spec.modules, reader.read_modules(*manifest, adapter.spec));
    if (auto checked = check_adapter(manifest->tensors(), adapter.spec); !checked) {
        return with_context(checked.error(), weights_path.string());
    }
    auto parameters = read_values(file, *manifest);
    if (!parameters) return with_context(parameters.error(), weights_path.string());
    adapter.parameters = *std::move(parameters);
    return adapter;
}

}  // namespace fedllm::formats
