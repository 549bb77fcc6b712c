#include <cstdint>
#include <vector>

#include "client/model/base_model.hpp"
#include "client/model/manifests.hpp"

namespace fedllm::client::model {

Result<void> write_model_folder(const Path& folder, const ModelConfig& config,
                                const tensor::ParamSet& parameters, WeightsFormat format) {
    const std::string wrong = tensor::difference(full_manifest(config), parameters.manifest());
    if (!wrong.empty()) return make_error(Errc::ManifestMismatch, folder.string() + ": " + wrong);
    FEDLLM_TRY_VOID(make_directories(folder));

    const bool narrow = format == WeightsFormat::BF16;
    std::vector<std::uint16_t> rounded;
    if (narrow) {
        rounded.reserve(parameters.values().size());
        for (const float value : parameters.values()) rounded.push_back(tensor::f32_to_bf16(value));
    }
    const auto all = narrow ? std::as_bytes(std::span(rounded)) : std::as_bytes(parameters.values());
    const auto dtype = narrow ? tensor::DType::BF16 : tensor::DType::F32;
    const std::size_t width = tensor::size_of(dtype);
    std::vector<formats::TensorToWrite> tensors;
    for (std::size_t i = 0; i < parameters.manifest().tensors().size(); ++i) {
        const auto& spec = parameters.manifest().tensors()[i];
        const auto bytes = all.subspan(parameters.manifest().offset(i) * width, spec.elements() * width);
        tensors.push_back({spec.name, dtype, spec.shape, bytes});
    }
    FEDLLM_TRY_VOID(formats::write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}}));
    return write_file_atomically(folder / "config.json",
                                 model_config_json(config, narrow ? "bfloat16" : "float32"));
}

}  // namespace fedllm::client::model
