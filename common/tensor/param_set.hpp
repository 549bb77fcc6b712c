// ParamSet: the trainable tensors of a job, ordered and named, laid out in one f32 arena.
// It is what the trainer changes, what a model version is, and what the server averages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.hpp"

namespace fedllm::tensor {

// One tensor of a job. Names are those of the file the set is exported to (PEFT's for adapters, Hugging
// Face's for whole models), so nothing translates names between the trainer and the disk.
struct TensorSpec {
    std::string name;
    std::vector<std::uint64_t> shape;  // row-major; at most 8 dimensions, none of them 0

    std::uint64_t elements() const;
    bool operator==(const TensorSpec&) const = default;
};

std::string describe(const TensorSpec& spec);  // "a.b.lora_A.weight [8, 64]"

// The ordered list of a job's tensors. Order is part of identity: digests and uploads follow it.
class Manifest {
public:
    Manifest() = default;
    // Fails with ManifestMismatch: duplicate or empty name, zero or overflowing shape, more than
    // kTensorsMax tensors or kElementsMax elements.
    static Result<Manifest> create(std::vector<TensorSpec> tensors);

    std::span<const TensorSpec> tensors() const { return tensors_; }
    std::uint64_t elements() const { return offsets_.empty() ? 0 : offsets_.back(); }
    std::uint64_t offset(std::size_t index) const { return offsets_[index]; }  // in elements
    std::optional<std::size_t> find(std::string_view name) const;

    bool operator==(const Manifest& other) const { return tensors_ == other.tensors_; }

    static constexpr std::size_t kTensorsMax = 100'000;
    static constexpr std::uint64_t kElementsMax = std::uint64_t{1} << 40;

private:
    std::vector<TensorSpec> tensors_;
    std::vector<std::uint64_t> offsets_;  // tensors_.size() + 1 entries, starting with 0
};

// The first difference between two manifests in words, or "" if they are equal.
std::string difference(const Manifest& expected, const Manifest& actual);

class ParamSet {
public:
    ParamSet() = default;
    explicit ParamSet(Manifest manifest);  // zero-filled

    const Manifest& manifest() const { return manifest_; }
    std::span<float> values() { return values_; }  // all tensors, in manifest order, no gaps
    std::span<const float> values() const { return values_; }
    std::span<float> tensor(std::size_t index);
    std::span<const float> tensor(std::size_t index) const;

    bool operator==(const ParamSet&) const = default;

private:
    Manifest manifest_;
    std::vector<float> values_;
};

}  // namespace fedllm::tensor
