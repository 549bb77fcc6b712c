#include "common/formats/param_set_file.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/formats/safetensors.hpp"

namespace fedllm::formats {
namespace {

std::map<std::string, std::string> metadata() { return {{"format", "pt"}}; }

Result<tensor::Manifest> manifest_of(const SafetensorsFile& file) {
    std::vector<tensor::TensorSpec> specs;
    specs.reserve(file.tensors().size());
    for (const TensorInfo& tensor : file.tensors()) {
        if (tensor.dtype != tensor::DType::F32) {
            return make_error(Errc::ManifestMismatch, file.path().string() + ": " + describe(tensor) +
                                                          ": the tensors of a model version must be F32");
        }
        specs.push_back({tensor.name, tensor.shape});
    }
    auto manifest = tensor::Manifest::create(std::move(specs));
    if (!manifest) return with_context(manifest.error(), file.path().string());
    return manifest;
}

Result<void> check_finite(const Path& path, const TensorInfo& tensor) {
    std::array<float, 4096> piece;
    for (std::span<const std::byte> rest = tensor.bytes; !rest.empty();) {
        const auto bytes = rest.first(std::min(rest.size(), sizeof piece));
        std::memcpy(piece.data(), bytes.data(), bytes.size());  // they need not be aligned
        const auto values = std::span(piece).first(bytes.size() / sizeof(float));
        if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); })) {
            return make_error(Errc::NotFinite, path.string() + ": " + describe(tensor) +
                                                   ": holds a value that is not a finite number");
        }
        rest = rest.subspan(bytes.size());
    }
    return {};
}

}  // namespace

Result<void> write_param_set(const Path& path, const tensor::ParamSet& params) {
    std::vector<TensorToWrite> tensors;
    const auto specs = params.manifest().tensors();
    tensors.reserve(specs.size());
    for (std::size_t i = 0; i < specs.size(); ++i) {
        tensors.push_back(
            {specs[i].name, tensor::DType::F32, specs[i].shape, std::as_bytes(params.tensor(i))});
    }
    return write_safetensors(path, tensors, metadata());
}

Result<std::vector<std::byte>> param_set_header(const tensor::Manifest& manifest) {
    std::vector<TensorToWrite> tensors;
    tensors.reserve(manifest.tensors().size());
    for (std::size_t i = 0; i < manifest.tensors().size(); ++i) {
        const auto& spec = manifest.tensors()[i];
        tensors.push_back({spec.name, tensor::DType::F32, spec.shape, {}});
    }
    return safetensors_header(tensors, metadata());
}

Result<tensor::ParamSet> read_param_set(const Path& path) {
    FEDLLM_TRY(const SafetensorsFile file, SafetensorsFile::open(path));
    FEDLLM_TRY(tensor::Manifest manifest, manifest_of(file));
    tensor::ParamSet params(std::move(manifest));
    for (std::size_t i = 0; i < file.tensors().size(); ++i) {
        const TensorInfo& tensor = file.tensors()[i];
        FEDLLM_TRY_VOID(check_finite(path, tensor));
        FEDLLM_TRY_VOID(read_floats(tensor, params.tensor(i)));
    }
    return params;
}

Result<tensor::Manifest> check_param_set(const Path& path) {
    FEDLLM_TRY(const SafetensorsFile file, SafetensorsFile::open(path));
    FEDLLM_TRY(tensor::Manifest manifest, manifest_of(file));
    for (const TensorInfo& tensor : file.tensors()) FEDLLM_TRY_VOID(check_finite(path, tensor));
    return manifest;
}

Result<std::span<const float>> param_set_values(std::span<const std::byte> file,
                                                const tensor::Manifest& manifest) {
    std::uint64_t header = 0;
    if (file.size() >= sizeof header) std::memcpy(&header, file.data(), sizeof header);
    const std::uint64_t values = manifest.elements() * sizeof(float);
    if (file.size() < sizeof header || header > file.size() - sizeof header ||
        file.size() - sizeof header - header != values) {
        return make_error(Errc::ManifestMismatch, "a model version of " + std::to_string(file.size()) +
                                                      " bytes does not hold " +
                                                      std::to_string(manifest.elements()) + " F32 values");
    }
    const std::byte* const first = file.data() + sizeof header + header;
    if (reinterpret_cast<std::uintptr_t>(first) % alignof(float) != 0) {
        return make_error(Errc::InvalidFile,
                          "the safetensors header of the model version has " + std::to_string(header) +
                              " bytes: its values lie askew; pad it with spaces to a multiple of 8");
    }
    return std::span(reinterpret_cast<const float*>(first), manifest.elements());
}

Result<tensor::Manifest> read_manifest(const Path& path) {
    FEDLLM_TRY(const SafetensorsFile file, SafetensorsFile::open(path));
    return manifest_of(file);
}

}  // namespace fedllm::formats
