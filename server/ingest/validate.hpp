// What a client may claim about an update, and what an update may contain. Everything here is hostile input:
// each refusal has its own error code, and names the field or the tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "common/base/result.hpp"
#include "common/codec/codec.hpp"
#include "common/tensor/param_set.hpp"

namespace fedllm::server::ingest {

struct UpdateRules {
    codec::CodecId codec = codec::CodecId::None;  // of the job; `none` is always allowed
    double clip_norm = 0;                         // of the job: the L2 bound of a whole update
    std::uint64_t samples_max = 0;                // of the job
    bool operator==(const UpdateRules&) const = default;
};

// An Offer's words (common/protocol), before any of them is believed.
struct Claim {
    std::string digest;
    std::uint64_t bytes = 0;
    std::uint64_t samples = 0;
    std::uint64_t tokens = 0;
    double train_loss = 0;
    double train_seconds = 0;
    double update_norm = 0;
    double eval_loss_sum = 0;  // with eval_tokens 0: nothing was evaluated
    std::uint64_t eval_tokens = 0;
    std::string codec;              // its name; empty: the job's
    double quantisation_error = 0;  // |x - decoded|^2 / |x|^2 of what was encoded
    double residual_norm = 0;       // L2 of what is left for the next update
};

// The codec that a claim names. Unsupported where it is neither the job's nor `none`.
Result<codec::CodecId> codec_of(const Claim& claim, const UpdateRules& rules);

// ManifestMismatch (wrong size), SampleCountLie, NotFinite, Unsupported (codec), Malformed (digest or an
// impossible number).
Result<void> check_claim(const Claim& claim, const UpdateRules& rules, const codec::Layout& layout);
Result<void> check_evaluation(double loss_sum, std::uint64_t tokens);

// Checks an update while it arrives. Feed it every byte in order. Lifecycle: one per upload, borrows the
// manifest. After an error the update is refused for good.
class UpdateValidator {
public:
    UpdateValidator(const tensor::Manifest& manifest, const codec::Layout& layout, codec::CodecId codec,
                    double clip_norm);

    // NotFinite or OutOfBounds naming the tensor; else the errors of codec::Decoder. `good` gets every value
    // that passed, in order, up to the slice before the error.
    Result<void> feed(std::span<const std::byte> bytes, const codec::Sink& good);
    Result<void> feed(std::span<const std::byte> bytes) {
        return feed(bytes, [](std::uint64_t, std::span<const float>) {});
    }

    Result<void> finish() const;  // ManifestMismatch when bytes are missing
    double norm() const;          // L2 of what arrived so far

private:
    bool passes(std::uint64_t first_element, std::span<const float> values);
    Error culprit(std::uint64_t first_element, std::span<const float> values) const;

    const tensor::Manifest& manifest_;
    double bound_;  // clip norm with slack
    codec::Decoder decoder_;
    std::optional<Error> wrong_;  // what was found first
    double square_sum_ = 0;
};

// The tensor an element belongs to, and the index inside it: "'a.lora_A.weight' [8, 64], element 17".
std::string describe_element(const tensor::Manifest& manifest, std::uint64_t element);

}  // namespace fedllm::server::ingest
