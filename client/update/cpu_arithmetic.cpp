#include "client/update/cpu_arithmetic.hpp"

#include <algorithm>
#include <array>

#include "common/codec/deadzone.hpp"

namespace fedllm::client::update {
namespace {

// Values that come in order, in pieces of any size: in the decoder's, say, which knows nothing of blocks.
class Tally {
public:
    void add(double value) {  // f32, or the difference of two
        lanes_[count_ % kLanes] += value * value;
        of_.zeros += value == 0 ? 1 : 0;
        if (!std::isfinite(value) && !of_.not_finite) of_.not_finite = count_;
        if (++count_ % codec::deadzone::kSquareBlock == 0) fold();
    }
    Measure measure() {
        fold();
        return of_;
    }

private:
    static constexpr std::size_t kLanes = 32;

    void fold() {
        for (std::size_t apart = kLanes / 2; apart > 0; apart /= 2) {
            for (std::size_t lane = 0; lane < apart; ++lane) lanes_[lane] += lanes_[lane + apart];
        }
        of_.squares += lanes_[0];
        lanes_ = {};
    }

    std::array<double, kLanes> lanes_{};
    std::uint64_t count_ = 0;
    Measure of_;
};

Measure measure(std::span<const float> values) {
    Tally tally;
    for (const float value : values) tally.add(value);
    return tally.measure();
}

Measure scaled(std::span<float> values, double factor) {
    for (float& value : values) value = static_cast<float>(value * factor);
    return measure(values);
}

}  // namespace

CpuArithmetic::CpuArithmetic(const tensor::Manifest& manifest)
    : layout_(codec::layout_of(manifest)), x_(manifest) {}

Difference CpuArithmetic::difference(std::span<const float> start, std::span<const float> trained,
                                     std::span<const float> residual) {
    const std::span<float> x = x_.values();
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = trained[i] - start[i];
    const Measure delta = measure(x);
    if (residual.empty()) return {delta, delta};
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += residual[i];
    return {delta, measure(x)};
}

Measure CpuArithmetic::scale(double factor) { return scaled(x_.values(), factor); }

Measure CpuArithmetic::send(std::span<const std::uint8_t> sent_groups) {
    const std::span<const float> x = x_.values();
    sent_.assign(x.begin(), x.end());
    if (!sent_groups.empty()) {
        auto first = sent_.begin();
        for (const codec::Layout::Run& run : layout_.runs) {
            const auto end = first + static_cast<std::ptrdiff_t>(run.elements);
            if (sent_groups[run.group] == 0) std::fill(first, end, 0.0F);
            first = end;
        }
    }
    return measure(sent_);
}

Measure CpuArithmetic::scale_sent(double factor) { return scaled(sent_, factor); }

Result<Encoded> CpuArithmetic::encode(const codec::Spec& spec, std::uint64_t key) {
    codec_ = spec.id;
    Encoded encoded;
    FEDLLM_TRY(encoded.bytes, codec::encode(spec, layout_, sent_, key));
    Tally decoded, lost;
    const auto sink = [&](std::uint64_t first, std::span<const float> values) {
        for (std::size_t i = 0; i < values.size(); ++i) {
            decoded.add(values[i]);
            lost.add(static_cast<double>(sent_[first + i]) - values[i]);
        }
    };
    FEDLLM_TRY_VOID(codec::decode(codec_, layout_, encoded.bytes, sink));
    encoded.decoded_squares = decoded.measure().squares;
    encoded.lost_squares = lost.measure().squares;
    return encoded;
}

Result<Measure> CpuArithmetic::subtract_decoded(std::span<const std::byte> bytes) {
    const std::span<float> x = x_.values();
    const auto sink = [&](std::uint64_t first, std::span<const float> values) {
        for (std::size_t i = 0; i < values.size(); ++i) x[first + i] -= values[i];
    };
    FEDLLM_TRY_VOID(codec::decode(codec_, layout_, bytes, sink));
    return measure(x);
}

}  // namespace fedllm::client::update
