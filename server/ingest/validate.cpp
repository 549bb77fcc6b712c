#include "server/ingest/validate.hpp"

#include <algorithm>
#include <cmath>

#include "common/crypto/sha256.hpp"
#include "common/tensor/fixed_point.hpp"
#include "server/ingest/scan.hpp"

namespace fedllm::server::ingest {
namespace {

constexpr std::uint64_t kTokensMax = std::uint64_t{1} << 50;

Result<void> check_number(const char* field, double value) {
    if (!std::isfinite(value)) {
        return make_error(Errc::NotFinite, std::string(field) + " is not a finite number");
    }
    if (value < 0) {
        return make_error(Errc::Malformed, std::string(field) + " is " + std::to_string(value) +
                                               ", which it cannot be: expected 0 or more");
    }
    return {};
}

}  // namespace

Result<codec::CodecId> codec_of(const Claim& claim, const UpdateRules& rules) {
    if (claim.codec.empty() || claim.codec == codec::name(rules.codec)) return rules.codec;
    if (claim.codec == codec::name(codec::CodecId::None)) return codec::CodecId::None;
    return make_error(Errc::Unsupported, "an update in codec '" + claim.codec +
                                             "' is offered; the job takes '" +
                                             std::string(codec::name(rules.codec)) + "' or 'none'");
}

Result<void> check_claim(const Claim& claim, const UpdateRules& rules, const codec::Layout& layout) {
    const auto digest = crypto::from_hex(claim.digest);
    if (!digest ||
        crypto::to_hex(*digest) != claim.digest) {  // one digest has one spelling, as it names a file
        return make_error(Errc::Malformed, "the update's digest is not 64 lower-case hexadecimal digits");
    }
    FEDLLM_TRY(const codec::CodecId codec, codec_of(claim, rules));
    const codec::ByteRange range = codec::encoded_bytes(codec, layout);
    if (claim.bytes < range.least || claim.bytes > range.most) {
        return make_error(Errc::ManifestMismatch,
                          "an update of " + std::to_string(claim.bytes) +
                              " bytes is offered, but the job's " + std::to_string(layout.elements) +
                              " values in codec '" + std::string(codec::name(codec)) + "' make " +
                              std::to_string(range.least) + " to " + std::to_string(range.most));
    }
    if (claim.samples < 1 || claim.samples > rules.samples_max) {
        return make_error(Errc::SampleCountLie, "a sample count of " + std::to_string(claim.samples) +
                                                    " is claimed; the job allows 1 to " +
                                                    std::to_string(rules.samples_max) + " (samples_max)");
    }
    if (claim.tokens > kTokensMax) {
        return make_error(Errc::Malformed,
                          "a token count of " + std::to_string(claim.tokens) + " is impossible");
    }
    FEDLLM_TRY_VOID(check_number("train_loss", claim.train_loss));
    FEDLLM_TRY_VOID(check_number("train_seconds", claim.train_seconds));
    FEDLLM_TRY_VOID(check_number("update_norm", claim.update_norm));
    FEDLLM_TRY_VOID(check_number("quantisation_error", claim.quantisation_error));
    FEDLLM_TRY_VOID(check_number("residual_norm", claim.residual_norm));
    return check_evaluation(claim.eval_loss_sum, claim.eval_tokens);
}

Result<void> check_evaluation(double loss_sum, std::uint64_t tokens) {
    FEDLLM_TRY_VOID(check_number("the evaluation's loss_sum", loss_sum));
    if (tokens > kTokensMax || (tokens == 0 && loss_sum != 0)) {
        return make_error(Errc::Malformed, "an evaluation over " + std::to_string(tokens) +
                                               " tokens with a loss sum of " + std::to_string(loss_sum) +
                                               " is impossible");
    }
    return {};
}

std::string describe_element(const tensor::Manifest& manifest, std::uint64_t element) {
    const auto tensors = manifest.tensors();
    std::size_t low = 0, high = tensors.size();  // offset(low) <= element < offset(high)
    while (high - low > 1) {
        const std::size_t middle = (low + high) / 2;
        (manifest.offset(middle) <= element ? low : high) = middle;
    }
    return "tensor " + tensor::describe(tensors[low]) + ", element " +
           std::to_string(element - manifest.offset(low));
}

UpdateValidator::UpdateValidator(const tensor::Manifest& manifest, const codec::Layout& layout,
                                 codec::CodecId codec, double clip_norm)
    : manifest_(manifest), bound_(tensor::bound_with_slack(clip_norm)), decoder_(codec, layout) {}

Result<void> UpdateValidator::feed(std::span<const std::byte> bytes, const codec::Sink& good) {
    const auto pushed = decoder_.push(bytes, [&](std::uint64_t first, std::span<const float> values) {
        if (passes(first, values)) good(first, values);
    });
    if (wrong_) return *wrong_;
    return pushed;
}

bool UpdateValidator::passes(std::uint64_t first_element, std::span<const float> values) {
    if (wrong_) return false;
    const Scan found = scan(values, bound_);
    square_sum_ += found.square_sum;
    if (!found.within) {
        wrong_ = culprit(first_element, values);
    } else if (norm() > bound_) {
        wrong_ =
            make_error(Errc::OutOfBounds, "the update's L2 norm reaches " + std::to_string(norm()) + " in " +
                                              describe_element(manifest_, first_element + values.size() - 1) +
                                              "; the job's clip_norm allows " + std::to_string(bound_));
    }
    return !wrong_;
}

Error UpdateValidator::culprit(std::uint64_t first_element, std::span<const float> values) const {
    const auto bad = std::ranges::find_if(
        values, [this](float value) { return !(std::abs(static_cast<double>(value)) <= bound_); });
    FEDLLM_CHECK(bad != values.end());
    const std::string where =
        describe_element(manifest_, first_element + static_cast<std::uint64_t>(bad - values.begin()));
    if (!std::isfinite(*bad)) return make_error(Errc::NotFinite, where + " is not a finite number");
    return make_error(Errc::OutOfBounds, where + " is " + std::to_string(*bad) +
                                             "; the job's clip_norm allows at most " +
                                             std::to_string(bound_));
}

Result<void> UpdateValidator::finish() const {
    if (decoder_.complete()) return {};
    return make_error(Errc::ManifestMismatch, "the update ends after " + std::to_string(decoder_.decoded()) +
                                                  " of " + std::to_string(manifest_.elements()) + " values");
}

double UpdateValidator::norm() const { return std::sqrt(square_sum_); }

}  // namespace fedllm::server::ingest
