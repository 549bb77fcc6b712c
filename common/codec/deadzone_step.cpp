#include "common/codec/deadzone_step.hpp"

#include <array>
#include <cmath>
#include <vector>

#include "common/codec/container.hpp"
#include "common/codec/deadzone_kernels.hpp"

namespace fedllm::codec::deadzone {
namespace {

float step_of(double rms, double factor) {
    const double step = rms * factor;
    if (!(step >= static_cast<double>(kStepMin))) return 0;
    return static_cast<float>(std::min(step, static_cast<double>(kStepMax)));
}

// Bits of an ideal coder, signs included.
double entropy_bits(const Statistics& statistics) {
    double total = 0, bits = 0;
    for (const std::uint64_t count : statistics.counts) total += static_cast<double>(count);
    for (std::size_t m = 0; m < statistics.counts.size(); ++m) {
        const auto count = static_cast<double>(statistics.counts[m]);
        if (count > 0) bits += count * (std::log2(total / count) + (m > 0 ? 1.0 : 0.0));
    }
    return bits;
}

// The sampled values, each block's parts with their groups.
class Sample {
public:
    Sample(const Layout& layout, std::span<const float> values) : groups_(layout.groups) {
        const SamplePlan plan(layout.elements);
        FEDLLM_CHECK(values.size() == plan.count);
        Pieces pieces(layout);
        std::uint64_t taken = 0;
        for (std::uint64_t at = 0; at < layout.elements;) {
            const Layout::Run piece = pieces.next(SamplePlan::kBlock - at % SamplePlan::kBlock);
            if (at / SamplePlan::kBlock % plan.every == 0) {
                parts_.push_back({values.subspan(taken, piece.elements), piece.group});
                taken += piece.elements;
            }
            at += piece.elements;
        }
    }
    // Of the whole update, headers and all, per value.
    double bits_per_value(float step, std::uint64_t elements) const {
        std::vector<Statistics> statistics(groups_);
        std::array<std::int8_t, SamplePlan::kBlock> levels{};
        std::uint64_t sampled = 0;
        for (const Part& part : parts_) {
            plain::quantize(part.values, 1.0f / step, levels.data(), statistics[part.group]);
            sampled += part.values.size();
        }
        double bits = 0;
        std::vector<Table> tables;
        for (const Statistics& group : statistics) {
            bits += entropy_bits(group);
            tables.push_back(make_table(group));
        }
        const auto all = static_cast<double>(elements);
        const double fixed =
            static_cast<double>(kPreludeBytes + kCrcBytes + write_parameters(step, tables).size() +
                                segments_of(elements) * (kSegmentHeadBytes + sizeof(States) * 3 / 4));
        return bits / static_cast<double>(sampled) + 8 * fixed / all;
    }

private:
    struct Part {
        std::span<const float> values;
        std::uint32_t group;
    };
    std::uint32_t groups_;
    std::vector<Part> parts_;
};

// The least of 768 steps, 2^(1/64) apart, that is estimated to keep within spec.bits: ten trials. The finest
// puts the last level at eight root mean squares.
float step_for_bits(const Spec& spec, const Layout& layout, std::span<const float> values, double rms) {
    constexpr double kRatio = 1.0108892860517005;  // 2^(1/64)
    std::array<double, 768> factors{};
    double factor = 1.0 / 16;
    for (double& candidate : factors) {
        candidate = factor;
        factor *= kRatio;
    }
    const Sample sample(layout, values);
    std::size_t low = 0, high = factors.size() - 1;  // the answer is in [low, high]
    while (low < high) {
        const std::size_t middle = (low + high) / 2;
        const bool fits = sample.bits_per_value(step_of(rms, factors[middle]), layout.elements) <= spec.bits;
        (fits ? high : low) = fits ? middle : middle + 1;
    }
    return step_of(rms, factors[low]);
}

}  // namespace

bool needs_sample(const Spec& spec, const Size& size) { return step_of(size.rms, 1) != 0 && spec.bits > 0; }

float choose_step(const Spec& spec, const Layout& layout, const Size& size, std::span<const float> sample) {
    if (step_of(size.rms, 1) == 0) return 0.0f;
    // What never is sent is never repaid: where all values are of about one size (Adam's first steps, a
    // residual below the last dead zone) a step that follows their size alone would leave them all in the
    // dead zone, round after round.
    const auto largest = static_cast<double>(size.largest);
    if (spec.bits <= 0) return step_of(std::min(size.rms * spec.step, largest), 1);
    constexpr double kLargestCounts = 0.999 / kThreshold;  // the largest value just leaves the dead zone
    return step_of(std::min<double>(step_for_bits(spec, layout, sample, size.rms), largest * kLargestCounts),
                   1);
}

}  // namespace fedllm::codec::deadzone
