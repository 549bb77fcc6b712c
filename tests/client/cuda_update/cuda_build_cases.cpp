// Whole updates built on the GPU: what the CPU builds, in every bit.
#include <limits>

#include "client/cuda_update/cuda_builder.hpp"
#include "tests/client/cuda_update/setting.hpp"

namespace fedllm::client::cuda_update::cases {
namespace {

using codec::CodecId;
using update::BuildRequest;
using update::EncodedUpdate;

std::vector<codec::Spec> specs() {
    std::vector<codec::Spec> all{{.id = CodecId::None},
                                 {.id = CodecId::Bf16},
                                 {.id = CodecId::Sign},
                                 {.id = CodecId::Deadzone},
                                 {.id = CodecId::Deadzone, .bits = 0.75}};
    for (const auto values : {codec::TopKValues::Bf16, codec::TopKValues::Int4})
        all.push_back({.id = CodecId::TopK, .topk_values = values});
    for (const auto rounding : {codec::Rounding::Nearest, codec::Rounding::Stochastic}) {
        all.push_back({.id = CodecId::Int8, .rounding = rounding});
        all.push_back({.id = CodecId::Int4, .rounding = rounding});
    }
    return all;
}

std::string describe(const codec::Spec& spec, const std::string& what) {
    return std::string(codec::name(spec.id)) + ", " + what;
}

Result<EncodedUpdate> both(Harness& harness, const tensor::ParamSet& start, const tensor::ParamSet& trained,
                           const BuildRequest& request) {
    auto want = update::build(start, trained, request);
    check_same(harness, build(/*device=*/0, start, trained, request), want);
    return want;
}

// Three updates in a row, each with the residual of the one before.
void rounds_case(Harness& harness, const std::string& what, const tensor::Manifest& manifest,
                 BuildRequest request) {
    harness.begin(describe(request.spec.codec, what));
    tensor::ParamSet residual;
    for (std::uint32_t round = 0; round < 3; ++round) {
        request.turn = 7 + round;
        request.key = round;
        request.residual = residual.values();
        const tensor::ParamSet start = values_of(manifest, "start");
        tensor::ParamSet trained = values_of(manifest, "trained " + std::to_string(round));
        auto made = both(harness, start, trained, request);
        harness.check(made.has_value(), "it can be built");
        if (!made) return;
        harness.check(made->residual.values().empty() != update::keeps_residual(request.spec), "a residual");
        residual = std::move(made->residual);
    }
}

// How long the decoded update is, as the server will measure it.
double decoded_norm(const tensor::Manifest& manifest, CodecId codec, const EncodedUpdate& made) {
    double squares = 0;
    const auto sink = [&](std::uint64_t, std::span<const float> values) {
        for (const float value : values) squares += double{value} * value;
    };
    codec::decode(codec, codec::layout_of(manifest), made.bytes, sink).value();
    return std::sqrt(squares);
}

// Bounds on a fine grid: whoever sums squares in another order scales by another factor, in a tenth of cases
// or so to other bits.
void clipping_case(Harness& harness, const codec::Spec& spec, int bounds) {
    harness.begin(describe(spec, "clipped"));
    const tensor::Manifest manifest = manifest_of();
    const tensor::ParamSet start(manifest), trained = values_of(manifest, "clipped");
    for (int i = 0; i < bounds; ++i) {
        const double bound = 0.1 + 0.001 * i;
        const auto made = both(harness, start, trained, {.spec = {.clip_norm = bound, .codec = spec}});
        if (!made) return harness.check(false, made.error().message);
        harness.check(made->norm > bound, "there is something to clip");
        harness.check(decoded_norm(manifest, spec.id, *made) <= bound * (1 + 1e-12), "within the bound");
    }
}

// Half of what it would take, and more than it takes.
void slow_link_case(Harness& harness, const tensor::Manifest& manifest, const codec::Spec& spec) {
    harness.begin(describe(spec, "slow link"));
    const tensor::ParamSet start(manifest), trained = values_of(manifest, "slow");
    BuildRequest request{.spec = {.clip_norm = 0.5, .codec = spec}};
    const auto whole = both(harness, start, trained, request);
    if (!whole) return harness.check(false, whole.error().message);
    request.upload_bytes_max = static_cast<double>(whole->bytes.size()) / 2;
    const auto slow = both(harness, start, trained, request);
    const bool coarser = slow && slow->bytes.size() < whole->bytes.size();
    harness.check(coarser == (spec.id == CodecId::Deadzone), "a coarser step");
    request.upload_bytes_max = static_cast<double>(whole->bytes.size()) * 2;
    const auto fast = both(harness, start, trained, request);
    harness.check(fast && fast->bytes == whole->bytes, "the link is not the limit");
}

void refusals_case(Harness& harness, const codec::Spec& spec) {
    harness.begin(describe(spec, "refusals"));
    const tensor::Manifest manifest = manifest_of();
    const tensor::ParamSet start = values_of(manifest, "start"), fine = values_of(manifest, "fine");
    const float infinity = std::numeric_limits<float>::infinity();
    tensor::ParamSet bad = fine;
    for (const float value : {infinity, std::numeric_limits<float>::quiet_NaN()}) {
        bad.values()[5'000] = value;
        const auto refused = both(harness, start, bad, {.spec = {.codec = spec}});
        harness.check(!refused && refused.error().code == Errc::NotFinite, "what training left");
    }
    bad.values()[5'000] = infinity;
    const auto refused = both(harness, start, fine, {.spec = {.codec = spec}, .residual = bad.values()});
    harness.check(!refused, "a residual that is not finite");
    const auto other = both(harness, start, tensor::ParamSet(manifest_of(/*large=*/true)), {});
    harness.check(!other && other.error().code == Errc::ManifestMismatch, "other tensors");
}

void nothing_case(Harness& harness, const codec::Spec& spec) {
    harness.begin(describe(spec, "nothing was learned"));
    const tensor::ParamSet start = values_of(manifest_of(), "start");
    harness.check(both(harness, start, start, {.spec = {.codec = spec}}).has_value(), "it can be built");
}

void cases(Harness& harness) {
    const tensor::Manifest manifest = manifest_of(), large = manifest_of(/*large=*/true);
    for (const codec::Spec& spec : specs()) {
        rounds_case(harness, "rounds", manifest, {.spec = {.clip_norm = 1000, .codec = spec}});
        rounds_case(harness, "clipped rounds of segments", manifest,
                    {.spec = {.clip_norm = 0.3, .codec = spec, .segments = 3}});
        rounds_case(harness, "no error feedback", manifest,
                    {.spec = {.clip_norm = 0.3, .codec = spec, .error_feedback = false, .segments = 2}});
        clipping_case(harness, spec, 10);
        slow_link_case(harness, manifest, spec);
        refusals_case(harness, spec);
        nothing_case(harness, spec);
    }
    const codec::Spec deadzone{.id = CodecId::Deadzone, .bits = 0.75};
    rounds_case(harness, "two segments of the container", large,
                {.spec = {.clip_norm = 1, .codec = deadzone, .segments = 2}});
    slow_link_case(harness, large, deadzone);
    harness.begin("a GPU that is not there");
    const tensor::ParamSet set(manifest);
    const auto refused = build(/*device=*/1000, set, set, {});
    harness.check(!refused && refused.error().code == Errc::DeviceFailed, "does not lack room");
}

}  // namespace
}  // namespace fedllm::client::cuda_update::cases

int main() {
    return fedllm::kernels::cuda::cases::run(
        [](auto& harness) { fedllm::client::cuda_update::cases::cases(harness); });
}
