#include "client/update/builder.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "client/update/cpu_arithmetic.hpp"
#include "common/crypto/sha256.hpp"

namespace fedllm::client::update {
namespace {

Error not_finite(const tensor::Manifest& manifest, std::size_t element) {
    std::size_t index = 0;
    while (index + 1 < manifest.tensors().size() && manifest.offset(index + 1) <= element) ++index;
    return make_error(Errc::NotFinite, "training left a NaN or infinity in " +
                                           manifest.tensors()[index].name +
                                           "; lower train.optimizer.learning_rate in the job");
}

// Rounding each product to f32 may lift the norm above the bound by a part in 10^7 or so, and the server
// refuses anything above: so it goes a little below.
constexpr double kSlack = 1e-7;
double factor_down(double norm, double bound, double slack = kSlack) { return bound / norm * (1.0 - slack); }

// Groups dealt out to `segments`, the largest first, each to the segment that has least. Whole groups,
// because the zeros of what is not sent then cost nothing: a group of zeros alone has no entropy.
std::vector<std::uint32_t> deal_out(const codec::Layout& layout, std::uint32_t segments) {
    std::vector<std::uint64_t> sizes(layout.groups);
    for (const codec::Layout::Run& run : layout.runs) sizes[run.group] += run.elements;
    std::vector<std::uint32_t> order(layout.groups);
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::uint32_t a, std::uint32_t b) { return sizes[a] > sizes[b]; });
    std::vector<std::uint64_t> load(std::clamp<std::uint32_t>(segments, 1, std::max(layout.groups, 1U)));
    std::vector<std::uint32_t> segment_of(layout.groups);
    for (const std::uint32_t group : order) {
        const auto lightest = std::min_element(load.begin(), load.end());
        *lightest += sizes[group];
        segment_of[group] = static_cast<std::uint32_t>(lightest - load.begin());
    }
    return segment_of;
}

// By group, whether it is in this turn's segment; empty where all of them are.
std::vector<std::uint8_t> sent_groups(const BuildRequest& request, const codec::Layout& layout) {
    const std::uint32_t segments = std::min(request.spec.segments, layout.groups);
    if (segments <= 1) return {};
    const std::vector<std::uint32_t> segment_of = deal_out(layout, segments);
    std::vector<std::uint8_t> sent(layout.groups);
    for (std::uint32_t group = 0; group < layout.groups; ++group) {
        sent[group] = segment_of[group] == request.turn % segments ? 1 : 0;
    }
    return sent;
}

struct Within {
    Encoded encoded;
    double sent_squares = 0;
};

// Encodes what is sent, smaller each time until what the server will decode is within the bound. Values that
// shrink by less than a step of their codec decode to the same: so they shrink by more each time.
Result<Within> encode_within(const BuildRequest& request, std::uint64_t elements, Measure sent,
                             Arithmetic& arithmetic) {
    constexpr int kAttemptsMax = 8;
    const job::UpdateSpec& spec = request.spec;
    codec::Spec codec = codec::without_zeros(spec.codec, elements, sent.zeros);
    double slack = kSlack;
    for (int attempt = 0; attempt < kAttemptsMax; ++attempt, slack *= 8) {
        FEDLLM_TRY(Encoded encoded, arithmetic.encode(codec, request.key));
        const double most = request.upload_bytes_max;
        if (most > 0 && static_cast<double>(encoded.bytes.size()) > most &&
            codec.id == codec::CodecId::Deadzone) {
            codec.bits = 8 * most / static_cast<double>(elements);
            FEDLLM_TRY(encoded, arithmetic.encode(codec, request.key));
        }
        const double norm = std::sqrt(encoded.decoded_squares);
        if (norm <= spec.clip_norm) return Within{std::move(encoded), sent.squares};
        sent = arithmetic.scale_sent(factor_down(norm, spec.clip_norm, slack));
    }
    return make_error(Errc::Internal, "codec '" + std::string(codec::name(spec.codec.id)) +
                                          "' does not keep an update within its clip norm");
}

}  // namespace

bool keeps_residual(const job::UpdateSpec& spec) {
    return spec.error_feedback && (spec.codec.id != codec::CodecId::None || spec.segments > 1);
}

Result<EncodedUpdate> build(const tensor::ParamSet& start, const tensor::ParamSet& trained,
                            const BuildRequest& request) {
    CpuArithmetic arithmetic(start.manifest());
    return build(start, trained, request, arithmetic);
}

Result<EncodedUpdate> build(const tensor::ParamSet& start, const tensor::ParamSet& trained,
                            const BuildRequest& request, Arithmetic& arithmetic) {
    if (const std::string what = difference(start.manifest(), trained.manifest()); !what.empty()) {
        return make_error(Errc::ManifestMismatch, what);
    }
    FEDLLM_CHECK(request.residual.empty() || request.residual.size() == start.values().size());
    const Difference difference = arithmetic.difference(start.values(), trained.values(), request.residual);
    if (difference.delta.not_finite) return not_finite(start.manifest(), *difference.delta.not_finite);

    EncodedUpdate update;
    update.norm = difference.delta.norm();
    for (double norm = difference.x.norm(); norm > request.spec.clip_norm;) {
        norm = arithmetic.scale(factor_down(norm, request.spec.clip_norm)).norm();
    }
    const codec::Layout layout = codec::layout_of(start.manifest());
    const Measure sent = arithmetic.send(sent_groups(request, layout));
    FEDLLM_TRY(Within within, encode_within(request, layout.elements, sent, arithmetic));
    update.bytes = std::move(within.encoded.bytes);
    update.digest = crypto::to_hex(crypto::sha256(update.bytes));
    if (within.sent_squares > 0) {
        update.quantisation_error = within.encoded.lost_squares / within.sent_squares;
    }
    if (!keeps_residual(request.spec)) return update;
    FEDLLM_TRY(const Measure left, arithmetic.subtract_decoded(update.bytes));
    update.residual_norm = left.norm();
    update.residual = arithmetic.take_x();
    return update;
}

}  // namespace fedllm::client::update
