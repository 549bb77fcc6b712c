// The oracle is common/codec itself: bytes and residuals must be the same, bit for bit.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>

#include "common/base/philox.hpp"
#include "common/codec/deadzone_kernels.hpp"
#include "kernels/compress/op_cuda.hpp"
#include "tests/kernels/cuda/harness.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

using codec::CodecId;
using codec::Layout;
using codec::Spec;

// What values look like; all but NotFinite are finite.
enum class Kind { Heavy, Zeros, One, HalfZero, Denormal, Huge, Ties, InOrder, NotFinite };
constexpr const char* kKinds[] = {"heavy", "zeros", "one",      "half zero", "denormal",
                                  "huge",  "ties",  "in order", "not finite"};

float value_of(Kind kind, Rng& rng, std::size_t i, std::size_t size) {
    const float normal = rng.normal();
    switch (kind) {
        case Kind::Heavy: return normal * std::exp(2 * rng.normal()) * 1e-3f;
        case Kind::Zeros: return i % 2 == 0 ? 0.0f : -0.0f;
        case Kind::One: return i == size / 2 ? -0.25f : 0.0f;
        case Kind::HalfZero: return i / 700 % 2 == 0 ? 0.0f : normal;
        case Kind::Denormal: return normal * 1e-41f;
        case Kind::Huge: return normal * 1e37f;
        case Kind::Ties: return std::copysign(1.0f + static_cast<float>(rng.below(3)), normal);
        // Their mean is a tie of bf16 by the order in which 2^-48 is lost.
        case Kind::InOrder: return i % 64 == 0 ? 64.25f : i % 64 == 1 ? 0x1p-18f : 0x1p-48f;
        case Kind::NotFinite: return i == size / 2 ? std::numeric_limits<float>::quiet_NaN() : normal;
    }
    return 0;
}
// Drawn once: many cases ask for the same.
const std::vector<float>& values_of(Kind kind, std::size_t size, std::uint64_t seed) {
    static std::map<std::tuple<Kind, std::size_t, std::uint64_t>, std::vector<float>> drawn;
    const auto [found, fresh] = drawn.try_emplace({kind, size, seed});
    if (!fresh) return found->second;
    Rng rng(seed, "compress");
    for (std::size_t i = 0; i < size; ++i) found->second.push_back(value_of(kind, rng, i, size));
    return found->second;
}

Layout layout_of(std::vector<Layout::Run> runs) {
    Layout layout{std::move(runs), 0, 0};
    for (const Layout::Run& run : layout.runs) {
        layout.elements += run.elements;
        layout.groups = std::max(layout.groups, run.group + 1);
    }
    return layout;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
    return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

// The order of common/codec/deadzone.hpp.
double square_sum(std::span<const float> values) {
    double sum = 0;
    for (std::size_t at = 0; at < values.size(); at += codec::deadzone::kSquareBlock) {
        const std::size_t count = std::min(codec::deadzone::kSquareBlock, values.size() - at);
        sum += codec::deadzone::plain::sum_of_squares(values.subspan(at, count));
    }
    return sum;
}

struct Buffers {
    const Stream& stream;
    DeviceBuffer<float> before, after, residual;

    Buffers(const Stream& s, std::span<const float> b, std::span<const float> a, std::span<const float> r)
        : stream(s),
          before(to_device<float>(s, b)),
          after(to_device<float>(s, a)),
          residual(to_device<float>(s, r)) {}
    std::vector<float> x() const { return to_host(stream, residual.data(), residual.size()); }
};

void check_measure(Harness& harness, const Measure& found, std::span<const float> values, const char* what) {
    const auto bad = std::ranges::find_if(values, [](float value) { return !std::isfinite(value); });
    harness.check(found.not_finite.has_value() == (bad != values.end()),
                  std::string(what) + ": finite or not");
    if (bad != values.end()) {
        harness.check(found.not_finite == static_cast<std::uint64_t>(bad - values.begin()),
                      std::string(what) + ": the first that is not finite");
        return;
    }
    harness.check(found.squares == square_sum(values), std::string(what) + ": sum of squares");
    harness.check(found.zeros == static_cast<std::uint64_t>(std::ranges::count(values, 0.0f)),
                  std::string(what) + ": zeros");
    float largest = 0;
    for (const float value : values) largest = std::max(largest, std::fabs(value));
    harness.check(found.largest == largest, std::string(what) + ": largest");
}

// What codec::encode() and codec::decode() make of `sent`, against the device's.
void check_encoding(Harness& harness, DeviceEncoder& encoder, Buffers& buffers, const Spec& spec,
                    const Layout& layout, std::span<const float> sent) {
    constexpr std::uint64_t kKey = 0x1234567890ABCDEF;
    std::vector<float> x = buffers.x();
    const Result<EncodedOnDevice> got = encoder.encode(buffers.stream, spec, kKey);
    const Result<std::vector<std::byte>> want = codec::encode(spec, layout, sent, kKey);
    harness.check(got.has_value() == want.has_value(), "encoded or refused");
    if (!want.has_value() && !got.has_value())
        harness.check(got.error().code == want.error().code, "the same error");
    if (!want.has_value() || !got.has_value()) return;
    if (got->bytes != *want) {
        const auto [mine, theirs] = std::ranges::mismatch(got->bytes, *want);
        harness.check(false, std::to_string(got->bytes.size()) + " bytes, " + std::to_string(want->size()) +
                                 " expected; the first difference at " +
                                 std::to_string(mine - got->bytes.begin()));
    }
    std::vector<float> decoded(x.size());
    const auto sink = [&](std::uint64_t first, std::span<const float> values) {
        std::ranges::copy(values, decoded.begin() + static_cast<std::ptrdiff_t>(first));
    };
    harness.check(codec::decode(spec.id, layout, *want, sink).has_value(), "what was encoded is decoded");
    for (std::size_t i = 0; i < x.size(); ++i) x[i] -= decoded[i];
    const Measure left = encoder.subtract_decoded(buffers.stream, buffers.residual.data());
    harness.check(same_bits(buffers.x(), x), "the new residual");
    check_measure(harness, left, x, "the new residual");
    harness.check(got->decoded_squares == square_sum(decoded) || spec.id == CodecId::None, "|decoded|^2");
    double lost = 0;
    for (std::size_t i = 0; i < x.size(); ++i)
        lost += (double{sent[i]} - decoded[i]) * (double{sent[i]} - decoded[i]);
    harness.check(std::fabs(got->lost_squares - lost) <= 1e-12 * lost || spec.id == CodecId::None,
                  "|sent - decoded|^2");
}

std::string describe(const Spec& spec, const Layout& layout, Kind kind) {
    return std::string(codec::name(spec.id)) + " of " + std::to_string(layout.elements) + " in " +
           std::to_string(layout.runs.size()) + " runs, " + kKinds[static_cast<int>(kind)];
}

// Two updates in a row through one encoder: the second finds the first one's residual, and its buffers used.
void update_case(Harness& harness, const Spec& spec, const Layout& layout, Kind kind) {
    harness.begin(describe(spec, layout, kind));
    const Stream stream;
    DeviceEncoder encoder(layout, spec.id);
    const std::vector<float> zeros(layout.elements);
    for (const std::uint64_t turn : {1, 2}) {
        const std::vector<float> before = turn == 1 ? zeros : values_of(Kind::Heavy, layout.elements, 7);
        const std::vector<float> after = values_of(kind, layout.elements, turn);
        const std::vector<float> left = turn == 1 ? zeros : values_of(kind, layout.elements, 11);
        Buffers buffers(stream, before, after, left);
        const Write write = turn == 1 ? Write::Overwrite : Write::Accumulate;
        std::vector<float> delta(after), x(after);
        for (std::size_t i = 0; i < x.size(); ++i) {
            x[i] = delta[i] = after[i] - before[i];
            if (turn == 2) x[i] += left[i];
        }
        const Difference found = encoder.difference(stream, buffers.before.data(), buffers.after.data(),
                                                    buffers.residual.data(), write);
        check_measure(harness, found.delta, delta, "delta");
        check_measure(harness, found.x, x, "x");
        harness.check(kind == Kind::NotFinite || same_bits(buffers.x(), x), "x");
        check_measure(harness, encoder.send(stream, buffers.residual.data()), x, "what is sent");
        check_encoding(harness, encoder, buffers, spec, layout, x);
    }
}

// Clipped, some groups only, and encoded again after scaling.
void clipped_case(Harness& harness, const Spec& spec, const Layout& layout) {
    harness.begin("clipped: " + describe(spec, layout, Kind::Heavy));
    const Stream stream;
    DeviceEncoder encoder(layout, spec.id);
    std::vector<float> x = values_of(Kind::Heavy, layout.elements, 3);
    const std::vector<float> zeros(layout.elements);
    Buffers buffers(stream, zeros, x, zeros);
    encoder.difference(stream, buffers.before.data(), buffers.after.data(), buffers.residual.data(),
                       Write::Overwrite);
    const auto scale = [](std::vector<float>& values, double factor) {
        for (float& value : values) value = static_cast<float>(value * factor);
    };
    scale(x, 0.123456789);
    check_measure(harness, encoder.scale(stream, buffers.residual.data(), 0.123456789), x, "scaled");
    harness.check(same_bits(buffers.x(), x), "scaled x");
    std::vector<std::uint8_t> sent_groups(layout.groups);
    for (std::size_t group = 0; group < sent_groups.size(); group += 2) sent_groups[group] = 1;
    std::vector<float> sent = x;
    std::size_t at = 0;
    for (const Layout::Run& run : layout.runs) {
        if (sent_groups[run.group] == 0)
            std::fill_n(sent.begin() + static_cast<std::ptrdiff_t>(at), run.elements, 0.0f);
        at += run.elements;
    }
    check_measure(harness, encoder.send(stream, buffers.residual.data(), sent_groups), sent, "some groups");
    harness.check(encoder.encode(stream, spec, 5).has_value(), "a first attempt");
    scale(sent, 1.0 / 3);
    check_measure(harness, encoder.scale_sent(stream, 1.0 / 3), sent, "scaled again");
    check_encoding(harness, encoder, buffers, spec, layout, sent);
}

// Runs shorter than a row, as long as a piece and longer, across segments; groups that come back.
const std::vector<Layout>& layouts() {
    static const std::vector<Layout> all{
        layout_of({}),
        layout_of({{1, 0}}),
        layout_of({{31, 0}, {33, 1}, {5, 0}, {64, 1}}),
        layout_of({{8192, 0}, {8193, 1}, {4095, 0}, {1, 2}}),
        layout_of({{131072, 0}}),
        layout_of({{100000, 0}, {70001, 1}, {3, 2}, {1021, 0}}),
    };
    return all;
}

std::vector<Spec> specs() {
    std::vector<Spec> all;
    for (const double step : {2.5, 0.03}) all.push_back({.id = CodecId::Deadzone, .step = step});
    for (const double bits : {0.3, 3.0}) all.push_back({.id = CodecId::Deadzone, .bits = bits});
    for (const auto values : {codec::TopKValues::Bf16, codec::TopKValues::Int4}) {
        for (const double density : {0.0, 0.05, 0.7, 1.0})
            all.push_back({.id = CodecId::TopK, .density = density, .topk_values = values});
    }
    for (const auto rounding : {codec::Rounding::Nearest, codec::Rounding::Stochastic}) {
        all.push_back({.id = CodecId::Int8, .rounding = rounding});
        all.push_back({.id = CodecId::Int4, .rounding = rounding});
    }
    for (const CodecId id : {CodecId::None, CodecId::Bf16, CodecId::Sign}) all.push_back({.id = id});
    return all;
}

constexpr Kind kAllKinds[] = {Kind::Heavy, Kind::Zeros, Kind::One,     Kind::HalfZero, Kind::Denormal,
                              Kind::Huge,  Kind::Ties,  Kind::InOrder, Kind::NotFinite};

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    return run([](Harness& harness) {
        for (const Spec& spec : specs()) {
            for (const Layout& layout : layouts()) {
                const bool large = layout.elements > 100000;
                const bool dense = spec.id == CodecId::TopK && spec.density > 0.1;
                if (!large || !dense) update_case(harness, spec, layout, Kind::Heavy);
            }
            for (const Kind kind : kAllKinds) update_case(harness, spec, layouts()[3], kind);
            clipped_case(harness, spec, layouts()[3]);
        }
        // A segment of nothing but zeros is left out.
        clipped_case(harness, {.id = CodecId::Deadzone}, layout_of({{131072, 1}, {5000, 0}}));
        // Ties across segments: only some of the equals are selected.
        for (const double density : {0.2, 0.5})
            update_case(harness, {.id = CodecId::TopK, .density = density}, layouts()[5], Kind::Ties);
    });
}
