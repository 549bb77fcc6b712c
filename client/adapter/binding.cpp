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

void add_linear(Places& places, std::size_t layer, const model::Projection& shape, LinearSlots& slots) {
    const std::string path = model::layer_name(layer, shape.path);
    const std::string peft = "base_model.model." + path;
    places[path + ".weight"] = {&slots.weight, nullptr, {shape.out, shape.in}};
    if (shape.bias) places[path + ".bias"] = {&slots.bias, nullptr, {shape.out}};
    places[peft + ".lora_A.weight"] = {&slots.lora_a, &slots.rank, {kAnyRank, shape.in}};
    places[peft + ".lora_B.weight"] = {&slots.lora_b, nullptr, {shape.out, kAnyRank}};
}

Places all_places(const model::ModelConfig& config, Binding& binding) {
    Places places;
    places["model.embed_tokens.weight"] = {&binding.embedding, nullptr, {config.vocab, config.hidden}};
    places["model.norm.weight"] = {&binding.final_norm, nullptr, {config.hidden}};
    if (!config.tied_head) places["lm_head.weight"] = {&binding.head, nullptr, {config.vocab, config.hidden}};
    const auto shapes = model::projections(config);
    for (std::size_t layer = 0; layer < binding.layers.size(); ++layer) {
        LayerSlots& slots = binding.layers[layer];
        for (std::size_t p = 0; p < shapes.size(); ++p)
            add_linear(places, layer, shapes[p], slots.linears[p]);
        places[model::layer_name(layer, "input_layernorm.weight")] = {
            &slots.input_norm, nullptr, {config.hidden}};
        places[model::layer_name(layer, "post_attention_layernorm.weight")] = {
            &slots.post_attention_norm, nullptr, {config.hidden}};
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
Result<void> check_pair(const tensor::Manifest& manifest, const LinearSlots& slots, const std::string& path,
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

bool LayerSlots::trained() const {
    return input_norm != kAbsent || post_attention_norm != kAbsent ||
           std::any_of(linears.begin(), linears.end(), [](const LinearSlots& s) { return s.trained(); });
}

bool Binding::trained() const {
    return embedding != kAbsent || final_norm != kAbsent || head != kAbsent ||
           first_trained_layer() < layers.size();
}

std::size_t Binding::first_trained_layer() const {
    if (embedding != kAbsent) return 0;
    const auto found =
        std::find_if(layers.begin(), layers.end(), [](const LayerSlots& s) { return s.trained(); });
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
    const auto shapes = model::projections(config);
    for (std::size_t layer = 0; layer < binding.layers.size(); ++layer) {
        for (std::size_t p = 0; p < shapes.size(); ++p) {
            LinearSlots& slots = binding.layers[layer].linears[p];
            const std::string path = model::layer_name(layer, shapes[p].path);
            FEDLLM_TRY_VOID(check_pair(manifest, slots, path, shapes[p].out));
            slots.lora_scale = static_cast<float>(lora_scales.of(path));
            binding.rank_max = std::max(binding.rank_max, slots.rank);
        }
    }
    return binding;
}

kernels::LoraView lora_view(const LinearSlots& slots, const model::Projection& shape, const float* values) {
    return {kernels::ConstMatrix(values + slots.lora_a, slots.rank, shape.in),
            kernels::ConstMatrix(values + slots.lora_b, shape.out, slots.rank), slots.lora_scale};
}

kernels::LoraGradView lora_gradient_view(const LinearSlots& slots, const model::Projection& shape,
                                         float* gradients) {
    return {kernels::Matrix(gradients + slots.lora_a, slots.rank, shape.in),
            kernels::Matrix(gradients + slots.lora_b, shape.out, slots.rank)};
}

}  // namespace fedllm::client::adapter
