// Sets of tensors to build updates of, and what two builds must have in common: every bit.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client/update/builder.hpp"
#include "common/base/philox.hpp"
#include "tests/kernels/cuda/harness.hpp"

namespace fedllm::client::cuda_update::cases {

using kernels::cuda::cases::Harness;

// Groups of odd sizes in two layers, whose values differ in size; `large` makes it two segments of a
// container.
inline tensor::Manifest manifest_of(bool large = false) {
    std::vector<tensor::TensorSpec> tensors;
    for (const char* const layer : {"0", "1"}) {
        const std::string name = "layers." + std::string(layer);
        tensors.push_back({name + ".q.lora_A", {3, 701}});
        tensors.push_back({name + ".q.lora_B", {large ? 70'001U : 1'531U}});
        tensors.push_back({name + ".v.lora_A", {1'024}});
        tensors.push_back({name + ".v.lora_B", {4'099}});
    }
    return tensor::Manifest::create(std::move(tensors)).value();
}

// Heavy-tailed, and a tensor of zeros (a frozen A) unless `frozen` is off.
inline tensor::ParamSet values_of(const tensor::Manifest& manifest, const std::string& stream,
                                  bool frozen = true) {
    tensor::ParamSet set(manifest);
    Rng rng(11, stream);
    for (std::size_t i = 0; i < manifest.tensors().size(); ++i) {
        if (frozen && manifest.tensors()[i].name.ends_with("v.lora_A")) continue;
        for (float& value : set.tensor(i)) {
            value = 1e-3F * static_cast<float>(i + 1) * rng.normal() * std::exp(rng.normal());
        }
    }
    return set;
}

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

inline void check_same(Harness& harness, const Result<update::EncodedUpdate>& got,
                       const Result<update::EncodedUpdate>& want) {
    harness.check(got.has_value() == want.has_value(), "built or refused");
    // Where a value is not finite, one names the element and the other its neighbourhood.
    if (!got && !want) harness.check(got.error().code == want.error().code, got.error().message);
    if (!got && want) harness.check(false, got.error().message);
    if (!got || !want) return;
    harness.check(got->bytes == want->bytes, "bytes: " + std::to_string(got->bytes.size()) +
                                                 " of them, and " + std::to_string(want->bytes.size()));
    harness.check(got->digest == want->digest, "digest");
    harness.check(got->residual.manifest() == want->residual.manifest() &&
                      same_bits(got->residual.values(), want->residual.values()),
                  "residual");
    const auto same = [&](double mine, double theirs, const char* what) {
        harness.check(std::bit_cast<std::uint64_t>(mine) == std::bit_cast<std::uint64_t>(theirs),
                      std::string(what) + ": " + std::to_string(mine) + ", and " + std::to_string(theirs));
    };
    same(got->norm, want->norm, "norm");
    same(got->quantisation_error, want->quantisation_error, "quantisation error");
    same(got->residual_norm, want->residual_norm, "norm of the residual");
}

}  // namespace fedllm::client::cuda_update::cases
