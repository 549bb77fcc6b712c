// From a trained set of tensors to the bytes that leave the machine: delta, norm, clip, encode, hash. Once,
// here.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "common/base/result.hpp"
#include "common/codec/codec.hpp"
#include "common/job/job_spec.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::client::update {

struct EncodedUpdate {
    std::vector<std::byte> bytes;
    std::string digest;  // SHA-256 of the bytes, hex
    double norm = 0;     // L2 of trained - start, before clipping
};

// trained - start, scaled down to an L2 norm of at most spec.clip_norm as the server will measure it (the
// encoded f32 values, summed in double). NotFinite when training left a NaN or infinity; ManifestMismatch
// when the two sets differ in more than values.
Result<EncodedUpdate> build(const tensor::ParamSet& start, const tensor::ParamSet& trained,
                            const job::UpdateSpec& spec);

}  // namespace fedllm::client::update
