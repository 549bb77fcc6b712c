#include "client/update/builder.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/crypto/sha256.hpp"

namespace fedllm::client::update {
namespace {

double square_sum(std::span<const float> values) {
    double sum = 0;
    for (const float value : values) sum += static_cast<double>(value) * value;
    return sum;
}

double norm_of(std::span<const float> values) { return std::sqrt(square_sum(values)); }

Error not_finite(const tensor::Manifest& manifest, std::size_t element) {
    std::size_t index = 0;
    while (index + 1 < manifest.tensors().size() && manifest.offset(index + 1) <= element) ++index;
    return make_error(Errc::NotFinite, "training left a NaN or infinity in " +
                                           manifest.tensors()[index].name +
                                           "; lower train.optimizer.learning_rate in the job");
}

// Rounding each product to f32 may lift the norm above the bound by a part in 10^7 or so, and the server
// refuses anything above: so it goes a little below.
void scale_down(std::span<float> values, double norm, double bound) {
    const double scale = bound / norm * (1.0 - 1e-7);
    for (float& value : values) value = static_cast<float>(value * scale);
}

// trained - start, plus what earlier updates left.
Result<tensor::ParamSet> difference_of(const tensor::ParamSet& start, const tensor::ParamSet& trained) {
    if (const std::string what = difference(start.manifest(), trained.manifest()); !what.empty()) {
        return make_error(Errc::ManifestMismatch, what);
    }
    tensor::ParamSet delta = trained;
    const std::span<float> values = delta.values();
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] -= start.values()[i];
        if (!std::isfinite(values[i])) return not_finite(start.manifest(), i);
    }
    return delta;
}

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

// x where this turn's segment is, and 0 elsewhere.
std::vector<float> segment(const BuildRequest& request, const codec::Layout& layout,
                           std::span<const float> x) {
    const std::vector<std::uint32_t> segment_of = deal_out(layout, request.spec.segments);
    const std::uint32_t segments = std::min(request.spec.segments, std::max(layout.groups, 1U));
    std::vector<float> sent(x.size());
    std::size_t first = 0;
    for (const codec::Layout::Run& run : layout.runs) {
        if (segment_of[run.group] == request.turn % segments) {
            std::copy_n(x.begin() + static_cast<std::ptrdiff_t>(first), run.elements,
                        sent.begin() + static_cast<std::ptrdiff_t>(first));
        }
        first += run.elements;
    }
    return sent;
}

// Encodes `sent`, smaller each time until what the server will decode is within the bound.
Result<std::vector<std::byte>> encode_within(const BuildRequest& request, const codec::Layout& layout,
                                             std::span<float> sent) {
    constexpr int kAttemptsMax = 8;
    const job::UpdateSpec& spec = request.spec;
    codec::Spec codec = codec::without_zeros(spec.codec, sent);
    for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
        FEDLLM_TRY(std::vector<std::byte> bytes, codec::encode(codec, layout, sent, request.key));
        const double most = request.upload_bytes_max;
        if (most > 0 && static_cast<double>(bytes.size()) > most && codec.id == codec::CodecId::Deadzone) {
            codec.bits = 8 * most / static_cast<double>(sent.size());
            FEDLLM_TRY(bytes, codec::encode(codec, layout, sent, request.key));
        }
        double squares = 0;
        FEDLLM_TRY_VOID(codec::decode(
            spec.codec.id, layout, bytes,
            [&](std::uint64_t, std::span<const float> values) { squares += square_sum(values); }));
        if (std::sqrt(squares) <= spec.clip_norm) return bytes;
        scale_down(sent, std::sqrt(squares), spec.clip_norm);
    }
    return make_error(Errc::Internal, "codec '" + std::string(codec::name(spec.codec.id)) +
                                          "' does not keep an update within its clip norm");
}

// Turns x into x - decoded; returns |sent - decoded|^2.
Result<double> subtract_decoded(const BuildRequest& request, const codec::Layout& layout,
                                std::span<const std::byte> bytes, std::span<const float> sent,
                                std::span<float> x) {
    double squares = 0;
    const auto sink = [&](std::uint64_t first, std::span<const float> values) {
        for (std::size_t i = 0; i < values.size(); ++i) {
            x[first + i] -= values[i];
            const double lost = static_cast<double>(sent[first + i]) - values[i];
            squares += lost * lost;
        }
    };
    FEDLLM_TRY_VOID(codec::decode(request.spec.codec.id, layout, bytes, sink));
    return squares;
}

}  // namespace

bool keeps_residual(const job::UpdateSpec& spec) {
    return spec.error_feedback && (spec.codec.id != codec::CodecId::None || spec.segments > 1);
}

Result<EncodedUpdate> build(const tensor::ParamSet& start, const tensor::ParamSet& trained,
                            const BuildRequest& request) {
    EncodedUpdate update;
    FEDLLM_TRY(tensor::ParamSet left, difference_of(start, trained));
    const std::span<float> x = left.values();
    update.norm = norm_of(x);
    if (!request.residual.empty()) {
        FEDLLM_CHECK(request.residual.size() == x.size());
        for (std::size_t i = 0; i < x.size(); ++i) x[i] += request.residual[i];
    }
    for (double norm = norm_of(x); norm > request.spec.clip_norm; norm = norm_of(x)) {
        scale_down(x, norm, request.spec.clip_norm);
    }

    const codec::Layout layout = codec::layout_of(start.manifest());
    std::vector<float> sent = segment(request, layout, x);
    FEDLLM_TRY(update.bytes, encode_within(request, layout, sent));
    update.digest = crypto::to_hex(crypto::sha256(update.bytes));

    const double sent_squares = square_sum(sent);
    FEDLLM_TRY(const double lost, subtract_decoded(request, layout, update.bytes, sent, x));
    update.quantisation_error = sent_squares > 0 ? lost / sent_squares : 0;
    if (!keeps_residual(request.spec)) return update;
    update.residual_norm = norm_of(x);
    update.residual = std::move(left);
    return update;
}

}  // namespace fedllm::client::update
