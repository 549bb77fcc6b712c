#include "client/update/builder.hpp"

#include <cmath>

#include "common/crypto/sha256.hpp"

namespace fedllm::client::update {
namespace {

double norm_of(std::span<const float> values) {
    double sum = 0;
    for (const float value : values) sum += static_cast<double>(value) * value;
    return std::sqrt(sum);
}

Error not_finite(const tensor::Manifest& manifest, std::size_t element) {
    std::size_t index = 0;
    while (index + 1 < manifest.tensors().size() && manifest.offset(index + 1) <= element) ++index;
    return make_error(Errc::NotFinite, "training left a NaN or infinity in " +
                                           manifest.tensors()[index].name +
                                           "; lower train.optimizer.learning_rate in the job");
}

// Rounding each product to f32 may lift the norm above the bound by a part in 10^7 or so, and the server
// refuses anything above: so scale again by what was measured until it holds (the second pass nearly always
// does).
void clip(std::span<float> delta, double norm, double bound) {
    while (norm > bound) {
        const double scale = bound / norm * (1.0 - 1e-7);
        for (float& value : delta) value = static_cast<float>(value * scale);
        norm = norm_of(delta);
    }
}

}  // namespace

Result<EncodedUpdate> build(const tensor::ParamSet& start, const tensor::ParamSet& trained,
                            const job::UpdateSpec& spec) {
    if (const std::string what = difference(start.manifest(), trained.manifest()); !what.empty()) {
        return make_error(Errc::ManifestMismatch, what);
    }
    std::vector<float> delta(trained.values().begin(), trained.values().end());
    for (std::size_t i = 0; i < delta.size(); ++i) {
        delta[i] -= start.values()[i];
        if (!std::isfinite(delta[i])) return not_finite(start.manifest(), i);
    }
    EncodedUpdate update;
    update.norm = norm_of(delta);
    clip(delta, update.norm, spec.clip_norm);
    FEDLLM_TRY(update.bytes, codec::encode(spec.codec, codec::layout_of(start.manifest()), delta, 0));
    update.digest = crypto::to_hex(crypto::sha256(update.bytes));
    return update;
}

}  // namespace fedllm::client::update
