// The parts a decoder can have, whatever its family calls them. A family has some of them (family.hpp).
#pragma once

#include <array>
#include <cstddef>
#include <vector>

namespace fedllm::client::model {

enum Part : std::size_t {
    // Once in a model.
    kEmbedding,  // table (V,C) of tokens
    kPositions,  // table (context,C) of learned positions
    kFinalNorm,
    kHead,  // (V,C)
    // Once in every layer.
    kInputNorm,
    kQ,
    kK,
    kV,
    kQkv,        // q, k and v in one product
    kQueryNorm,  // over each head of q, before it is turned
    kKeyNorm,
    kO,
    kMlpNorm,
    kGate,
    kUp,
    kDown,
};
constexpr std::size_t kParts = kDown + 1;

constexpr bool in_layers(Part part) { return part >= kInputNorm; }
constexpr bool is_norm(Part part) {
    return part == kFinalNorm || part == kInputNorm || part == kMlpNorm || part == kQueryNorm ||
           part == kKeyNorm;
}
constexpr bool is_linear(Part part) { return in_layers(part) && !is_norm(part); }  // may get an adapter

// One T for every part of a model; parts that the family lacks stay as T begins.
template <class T>
struct ByPart {
    std::array<T, kParts> once{};
    std::vector<std::array<T, kParts>> layers;

    T& at(Part part, std::size_t layer = 0) { return in_layers(part) ? layers[layer][part] : once[part]; }
    const T& at(Part part, std::size_t layer = 0) const {
        return in_layers(part) ? layers[layer][part] : once[part];
    }
};

}  // namespace fedllm::client::model
