// From a trained set of tensors to the bytes that leave the machine: delta, error feedback, clip, encode,
// hash. Once, here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "client/update/arithmetic.hpp"
#include "common/base/result.hpp"
#include "common/codec/codec.hpp"
#include "common/job/job_spec.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::client::update {

struct BuildRequest {
    job::UpdateSpec spec;
    std::span<const float> residual{};  // of this client's updates before; empty: none
    std::uint32_t turn = 0;             // which of spec.segments is sent: turn modulo their number
    std::uint64_t key = 0;              // of stochastic rounding
    double upload_bytes_max = 0;  // deadzone: what the link takes in the job's upload_seconds; 0: unknown
};

struct EncodedUpdate {
    std::vector<std::byte> bytes;
    std::string digest;             // SHA-256 of the bytes, hex
    double norm = 0;                // L2 of trained - start
    double quantisation_error = 0;  // |x - decoded|^2 / |x|^2, with x what was encoded; 0 for x = 0
    tensor::ParamSet
        residual;  // for the next update; an empty set where the job keeps none, see keeps_residual
    double residual_norm = 0;  // its L2
};

// Whether updates of this kind leave anything behind.
bool keeps_residual(const job::UpdateSpec& spec);

// Error feedback (Seide et al. 2014; Karimireddy et al., 1901.09847): x = trained - start + residual, and
// what the encoding of x loses is the next residual. x is first scaled down to an L2 norm of at most
// spec.clip_norm; and further, should the decoded values exceed it, for the server measures those. What
// clipping takes is not kept. Of several segments (equal ranges of elements; EcoLoRA, 2506.02001) one is
// sent, the others stay in the residual. NotFinite when training left a NaN or infinity; ManifestMismatch
// when the two sets differ in more than values.
Result<EncodedUpdate> build(const tensor::ParamSet& start, const tensor::ParamSet& trained,
                            const BuildRequest& request);

// The same, with the work on values done elsewhere.
Result<EncodedUpdate> build(const tensor::ParamSet& start, const tensor::ParamSet& trained,
                            const BuildRequest& request, Arithmetic& arithmetic);

}  // namespace fedllm::client::update
