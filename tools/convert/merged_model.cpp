#include "tools/convert/merged_model.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/formats/json.hpp"
#include "common/formats/safetensors.hpp"

namespace fedllm::tools::convert {
namespace {

namespace fs = std::filesystem;
using formats::LoadedAdapter;
using formats::SafetensorsFile;
using formats::SafetensorsFolder;
using formats::TensorInfo;
using formats::TensorToWrite;
using tensor::DType;

constexpr std::string_view kIndex = "model.safetensors.index.json";

// One module's A (rank, in) and B (out, rank).
struct Adapted {
    std::span<const float> a, b;
    std::size_t rank = 0, in = 0, out = 0;
    float scale = 0;
};
using AdaptedByTensor = std::map<std::string, Adapted, std::less<>>;

bool is_float(DType dtype) { return dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16; }

// Modules by the name of the base tensor they change. Files of an inner model lack the first part of the
// names, "transformer." or "model.".
Result<AdaptedByTensor> adapted_tensors(const LoadedAdapter& adapter, const SafetensorsFolder& base) {
    constexpr std::string_view kPrefix = "base_model.model.";
    constexpr std::string_view kSuffix = ".lora_A.weight";
    AdaptedByTensor all;
    const auto& manifest = adapter.parameters.manifest();
    for (std::size_t i = 0; i < manifest.tensors().size(); ++i) {
        const auto& spec = manifest.tensors()[i];
        if (!spec.name.ends_with(kSuffix)) continue;
        const std::string module =
            spec.name.substr(kPrefix.size(), spec.name.size() - kPrefix.size() - kSuffix.size());
        std::string name = module + ".weight";
        if (!base.find(name)) name.erase(0, name.find('.') + 1);
        if (!base.find(name)) {
            return make_error(Errc::ManifestMismatch,
                              "the adapter changes " + module + ", and the base model has no such tensor");
        }
        const auto b = manifest.find("base_model.model." + module + ".lora_B.weight");
        FEDLLM_CHECK(b.has_value(), "an adapter that was read has its pairs");
        const auto own = adapter.spec.module(module);
        all[name] = {adapter.parameters.tensor(i),
                     adapter.parameters.tensor(*b),
                     spec.shape[0],
                     spec.shape[1],
                     manifest.tensors()[*b].shape[0],
                     static_cast<float>(adapter.spec.scale_by(own.rank, own.alpha))};
    }
    return all;
}

// Every complaint before the first file is written.
Result<void> check(const SafetensorsFolder& base, const AdaptedByTensor& adapted) {
    for (const auto& [name, tensor] : base.tensors()) {
        const auto found = adapted.find(name);
        const auto fail = [&](Errc code, const std::string& what) {
            return make_error(code,
                              base.file_of(name) + ": tensor " + formats::describe(*tensor) + ": " + what);
        };
        if (found == adapted.end()) continue;
        if (!is_float(tensor->dtype)) {
            return fail(Errc::Unsupported, "is quantised; merge into the model it was made from");
        }
        const Adapted& module = found->second;
        const std::vector<std::uint64_t> plain{module.out, module.in};
        const std::vector<std::uint64_t> transposed{module.in, module.out};
        if (tensor->shape != plain && tensor->shape != transposed) {
            return fail(Errc::ManifestMismatch, "the adapter is for [" + std::to_string(module.out) + ", " +
                                                    std::to_string(module.in) + "]");
        }
    }
    return {};
}

// weights += scale * B A, or its transpose. Rows are independent of each other.
void add_product(std::span<float> weights, std::size_t cols, const Adapted& module, bool transposed,
                 kernels::ThreadPool& pool) {
    pool.parallel_for(weights.size() / cols, [&](std::size_t row) {
        std::vector<float> delta(cols, 0.0F);
        for (std::size_t r = 0; r < module.rank; ++r) {
            if (transposed) {
                const float a = module.a[r * module.in + row];
                for (std::size_t c = 0; c < cols; ++c) delta[c] += a * module.b[c * module.rank + r];
            } else {
                const float b = module.b[row * module.rank + r];
                const float* a = module.a.data() + r * module.in;
                for (std::size_t c = 0; c < cols; ++c) delta[c] += b * a[c];
            }
        }
        for (std::size_t c = 0; c < cols; ++c) weights[row * cols + c] += module.scale * delta[c];
    });
}

Result<std::vector<std::byte>> rounded(std::span<const float> values, DType dtype, const std::string& name) {
    std::vector<std::byte> bytes(values.size() * tensor::size_of(dtype));
    for (std::size_t i = 0; i < values.size(); ++i) {
        float kept = values[i];
        if (dtype == DType::F32) {
            std::memcpy(bytes.data() + 4 * i, &kept, 4);
        } else {
            const bool half = dtype == DType::F16;
            const std::uint16_t bits = half ? tensor::f32_to_f16(kept) : tensor::f32_to_bf16(kept);
            kept = half ? tensor::f16_to_f32(bits) : tensor::bf16_to_f32(bits);
            std::memcpy(bytes.data() + 2 * i, &bits, 2);
        }
        if (!std::isfinite(kept)) {
            return make_error(Errc::NotFinite, "tensor " + name + ": the value " + std::to_string(values[i]) +
                                                   " cannot be kept as " + std::string(tensor::name(dtype)));
        }
    }
    return bytes;
}

class Merger {
public:
    Merger(const AdaptedByTensor& adapted, std::optional<DType> dtype, bool conv1d, kernels::ThreadPool& pool)
        : adapted_(adapted), dtype_(dtype), conv1d_(conv1d), pool_(pool) {}

    Result<void> write(const Path& path, const SafetensorsFile& file) const {
        std::vector<std::vector<std::byte>> owned;
        owned.reserve(file.tensors().size());
        std::vector<TensorToWrite> tensors;
        for (const TensorInfo& tensor : file.tensors()) {
            TensorToWrite out{tensor.name, tensor.dtype, tensor.shape, tensor.bytes};
            const auto module = adapted_.find(tensor.name);
            const bool retyped = dtype_ && is_float(tensor.dtype) && *dtype_ != tensor.dtype;
            if (module != adapted_.end() || retyped) {
                FEDLLM_TRY(std::vector<float> values, formats::read_floats(tensor));
                if (module != adapted_.end()) {
                    add_product(values, tensor.shape[1], module->second,
                                lies_transposed(tensor, module->second), pool_);
                }
                if (retyped) out.dtype = *dtype_;
                FEDLLM_TRY(auto bytes, rounded(values, out.dtype, tensor.name));
                owned.push_back(std::move(bytes));
                out.bytes = owned.back();
            }
            tensors.push_back(std::move(out));
        }
        return formats::write_safetensors(path, tensors, {{"format", "pt"}});
    }

private:
    // A square matrix does not say which way it lies: the kind of model does.
    bool lies_transposed(const TensorInfo& tensor, const Adapted& module) const {
        if (module.in == module.out) return conv1d_;
        return tensor.shape[0] == module.in;
    }

    const AdaptedByTensor& adapted_;
    std::optional<DType> dtype_;
    bool conv1d_;
    kernels::ThreadPool& pool_;
};

std::string_view torch_name(DType dtype) {
    if (dtype == DType::F16) return "float16";
    return dtype == DType::BF16 ? "bfloat16" : "float32";
}

Result<std::string> config_text(const Path& base, std::optional<DType> dtype, bool& conv1d) {
    const Path path = base / "config.json";
    FEDLLM_TRY(const std::string text, read_file(path, std::size_t{1} << 20));
    FEDLLM_TRY(nlohmann::json config, formats::parse_json(text, path.string()));
    if (!config.is_object()) return make_error(Errc::InvalidModel, path.string() + ": expected an object");
    if (config.contains("quantization_config")) {
        return make_error(Errc::Unsupported, path.string() +
                                                 ": 'quantization_config': the weights are quantised; "
                                                 "merge into the model they were made from");
    }
    conv1d = config.value("model_type", nlohmann::json()) == "gpt2";
    if (!dtype) return text;
    for (const char* key : {"torch_dtype", "dtype"}) {
        if (config.contains(key)) config[key] = torch_name(*dtype);
    }
    return config.dump(2) + "\n";
}

Result<void> copy_companions(const Path& out, const Path& base) {
    for (const char* name : {"generation_config.json", "tokenizer.json", "tokenizer_config.json",
                             "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
                             "chat_template.json", "vocab.json", "merges.txt", "tokenizer.model"}) {
        std::error_code ignored;
        if (!fs::exists(base / name, ignored)) continue;
        FEDLLM_TRY(const std::string text, read_file(base / name));
        FEDLLM_TRY_VOID(write_file_atomically(out / name, text));
    }
    return {};
}

// The index of a base in several files; sizes change with the type of the weights, names do not.
Result<void> copy_index(const Path& out, const Path& base) {
    std::error_code ignored;
    if (!fs::exists(base / kIndex, ignored)) return {};
    FEDLLM_TRY(const std::string text, read_file(base / kIndex));
    FEDLLM_TRY(nlohmann::json index, formats::parse_json(text, (base / kIndex).string()));
    index.erase("metadata");
    return write_file_atomically(out / kIndex, index.dump(2) + "\n");
}

}  // namespace

Result<void> write_merged_model(const Path& out, const Path& base, const LoadedAdapter& adapter,
                                std::optional<DType> dtype, kernels::ThreadPool& pool) {
    std::error_code ignored;
    if (fs::equivalent(out, base, ignored)) {
        return make_error(Errc::AlreadyExists,
                          out.string() + ": this is the base model itself; name another");
    }
    bool conv1d = false;
    FEDLLM_TRY(const std::string config, config_text(base, dtype, conv1d));
    FEDLLM_TRY(const auto files, SafetensorsFolder::open(base));
    FEDLLM_TRY(const auto adapted, adapted_tensors(adapter, files));
    FEDLLM_TRY_VOID(check(files, adapted));
    FEDLLM_TRY_VOID(make_directories(out));
    const Merger merger(adapted, dtype, conv1d, pool);
    for (const SafetensorsFile& file : files.files()) {
        FEDLLM_TRY_VOID(merger.write(out / file.path().filename(), file));
    }
    FEDLLM_TRY_VOID(copy_index(out, base));
    FEDLLM_TRY_VOID(copy_companions(out, base));
    return write_file_atomically(out / "config.json", config);
}

}  // namespace fedllm::tools::convert
