#include "common/tensor/param_set.hpp"

#include <limits>
#include <unordered_set>

namespace fedllm::tensor {
namespace {

constexpr std::size_t kRankMax = 8;

// 0 stands for a shape that is empty, too deep, has a zero, or whose product overflows.
std::uint64_t checked_elements(std::span<const std::uint64_t> shape) {
    if (shape.empty() || shape.size() > kRankMax) return 0;
    std::uint64_t product = 1;
    for (const auto size : shape) {
        if (size == 0 || product > std::numeric_limits<std::uint64_t>::max() / size) return 0;
        product *= size;
    }
    return product;
}

}  // namespace

std::uint64_t TensorSpec::elements() const { return checked_elements(shape); }

std::string describe(const TensorSpec& spec) {
    std::string text = spec.name + " [";
    for (std::size_t i = 0; i < spec.shape.size(); ++i) {
        if (i > 0) text += ", ";
        text += std::to_string(spec.shape[i]);
    }
    return text + "]";
}

Result<Manifest> Manifest::create(std::vector<TensorSpec> tensors) {
    if (tensors.empty()) return make_error(Errc::ManifestMismatch, "a manifest needs at least one tensor");
    if (tensors.size() > kTensorsMax) {
        return make_error(Errc::ManifestMismatch, std::to_string(tensors.size()) + " tensors, at most " +
                                                      std::to_string(kTensorsMax) + " are supported");
    }
    Manifest manifest;
    std::unordered_set<std::string_view> names;
    manifest.offsets_.push_back(0);
    for (const TensorSpec& spec : tensors) {
        const std::uint64_t elements = spec.elements();
        if (spec.name.empty() || elements == 0 || elements > kElementsMax - manifest.offsets_.back()) {
            return make_error(Errc::ManifestMismatch,
                              "tensor " + describe(spec) + ": empty name or bad shape");
        }
        if (!names.insert(spec.name).second) {
            return make_error(Errc::ManifestMismatch, "tensor " + spec.name + " is listed twice");
        }
        manifest.offsets_.push_back(manifest.offsets_.back() + elements);
    }
    manifest.tensors_ = std::move(tensors);
    return manifest;
}

std::optional<std::size_t> Manifest::find(std::string_view name) const {
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
        if (tensors_[i].name == name) return i;
    }
    return std::nullopt;
}

std::string difference(const Manifest& expected, const Manifest& actual) {
    const auto a = expected.tensors();
    const auto b = actual.tensors();
    for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
        if (a[i] != b[i]) {
            return "tensor " + std::to_string(i) + ": expected " + describe(a[i]) + ", got " + describe(b[i]);
        }
    }
    if (a.size() != b.size()) {
        return "expected " + std::to_string(a.size()) + " tensors, got " + std::to_string(b.size());
    }
    return "";
}

ParamSet::ParamSet(Manifest manifest) : manifest_(std::move(manifest)), values_(manifest_.elements()) {}

std::span<float> ParamSet::tensor(std::size_t index) {
    return values().subspan(manifest_.offset(index), manifest_.offset(index + 1) - manifest_.offset(index));
}
std::span<const float> ParamSet::tensor(std::size_t index) const {
    return values().subspan(manifest_.offset(index), manifest_.offset(index + 1) - manifest_.offset(index));
}

}  // namespace fedllm::tensor
