#include "client/adapter/binding.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>

namespace fedllm::client::adapter {
namespace {

constexpr std::uint64_t kAnyRank = 0;  // stands for the rank in an expected shape
constexpr std::size_t kRankMax = 1024;

struct Place {
    Offset* offset = nullptr;
    std::size_t* rank = nullptr;  // of an adapter's A, which says the rank
    std::vector<std::uint64_t> shape;
};
using Places = std::unordered_map<std::string, Place>;

Places all_places(const model::ModelConfig& config, Binding& binding) {
    Places places;
    for (model::ModelTensor& tensor : model::model_tensors(config)) {
        Slots& slots = binding.at(tensor.part, tensor.layer);
        Offset* const offset = tensor.is_bias ? &slots.bias : &slots.weight;
        places[tensor.spec.name] = {offset, nullptr, std::move(tensor.spec.shape)};
    }
    for (std::size_t layer = 0; layer < config.layers; ++layer) {
        for (const model::Projection& shape : model::projections(config)) {
            Slots& slots = binding.at(shape.part, layer);
            const std::string peft = "base_model.model." + model::layer_name(config, layer, shape.path);
            places[peft + ".lora_A.weight"] = {&slots.lora_a, &slots.rank, {kAnyRank, shape.in}};
            places[peft + ".lora_B.weight"] = {&slots.lora_b, nullptr, {shape.out, kAnyRank}};
        }
    }
    return places;
}

bool fits(std::span<const std::uint64_t> expected, std::span<const std::uint64_t> actual) {
    return std::equal(
        expected.begin(), expected.end(), actual.begin(), actual.end(),
        [](std::uint64_t e, std::uint64_t a) { return e == a || (e == kAnyRank && a <= kRankMax); });
}

Error mismatch(std::string message) { return make_error(Errc::ManifestMismatch, std::move(message)); }

std::string shape_text(std::span<const std::uint64_t> shape) {
    std::string text;
    for (const auto size : shape) {
        text += (text.empty() ? "[" : ", ") + (size == kAnyRank ? std::string("rank") : std::to_string(size));
    }
    return text + "]";
}

// An A without its B, a B without its A, or two ranks in one pair.
Result<void> check_pair(const tensor::Manifest& manifest, const Slots& slots, const std::string& path,
                        std::size_t out) {
    if ((slots.lora_a == kAbsent) != (slots.lora_b == kAbsent)) {
        return mismatch(path + ": lora_A and lora_B come in pairs, and one is missing");
    }
    if (slots.lora_b == kAbsent) return {};
    const auto index = manifest.find("base_model.model." + path + ".lora_B.weight");
    if (manifest.tensors()[*index].elements() == out * slots.rank) return {};
    return mismatch(path + ": lora_A has rank " + std::to_string(slots.rank) + ", and " +
                    describe(manifest.tensors()[*index]) + " has another");
}

}  // namespace

bool Binding::trained() const {
    return std::any_of(once.begin(), once.end(), [](const Slots& slots) { return slots.trained(); }) ||
           first_trained_layer() < layers.size();
}

std::size_t Binding::first_trained_layer() const {
    if (at(model::kEmbedding).trained() || at(model::kPositions).trained()) return 0;
    const auto found = std::find_if(layers.begin(), layers.end(), [](const auto& layer) {
        return std::any_of(layer.begin(), layer.end(), [](const Slots& slots) { return slots.trained(); });
    });
    return static_cast<std::size_t>(found - layers.begin());
}

Result<Binding> Binding::create(const model::ModelConfig& config, const tensor::Manifest& manifest,
                                const tensor::LoraScales& lora_scales) {
    Binding binding;
    binding.layers.resize(config.layers);
    const Places places = all_places(config, binding);
    for (std::size_t i = 0; i < manifest.tensors().size(); ++i) {
        const tensor::TensorSpec& spec = manifest.tensors()[i];
        const auto found = places.find(spec.name);
        if (found == places.end()) {
            return mismatch("tensor " + spec.name + " is none that this model (" +
                            std::to_string(config.layers) + " layers) can train");
        }
        const Place& place = found->second;
        if (!fits(place.shape, spec.shape)) {
            return mismatch("tensor " + describe(spec) + ": expected the shape " + shape_text(place.shape));
        }
        *place.offset = manifest.offset(i);
        if (place.rank != nullptr) *place.rank = spec.shape[0];
    }
    for (std::size_t layer = 0; layer < config.layers; ++layer) {
        for (const model::Projection& shape : model::projections(config)) {
            Slots& slots = binding.at(shape.part, layer);
            const std::string path = model::layer_name(config, layer, shape.path);
            FEDLLM_TRY_VOID(check_pair(manifest, slots, path, shape.out));
            slots.lora_scale = static_cast<float>(lora_scales.of(path));
            binding.rank_max = std::max(binding.rank_max, slots.rank);
        }
    }
    return binding;
}

kernels::LoraView lora_view(const Slots& slots, const model::Projection& shape, const float* values) {
    return {kernels::ConstMatrix(values + slots.lora_a, slots.rank, shape.in),
            kernels::ConstMatrix(values + slots.lora_b, shape.out, slots.rank), slots.lora_scale};
}

kernels::LoraGradView lora_gradient_view(const Slots& slots, const model::Projection& shape,
                                         float* gradients) {
    return {kernels::Matrix(gradients + slots.lora_a, slots.rank, shape.in),
            kernels::Matrix(gradients + slots.lora_b, shape.out, slots.rank)};
}

}  // namespace fedllm::client::adapter
