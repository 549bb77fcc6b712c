// Which step a deadzone encoder takes: from the size of the values and, where bits are asked for, from a
// sample of them. Encoders differ in how they get the two; here they agree on the answer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "common/codec/codec.hpp"
#include "common/codec/deadzone.hpp"

namespace fedllm::codec::deadzone {

// Of the values of an update, all of them finite.
struct Size {
    double rms = 0;     // by the sum in the order that deadzone.hpp fixes
    float largest = 0;  // magnitude
};

// Every n-th block of 64 values from the first on, about 2^16 values in all: what steps are tried on.
struct SamplePlan {
    static constexpr std::uint64_t kBlock = 64;
    std::uint64_t every = 1;  // n
    std::uint64_t count = 0;  // of values

    explicit SamplePlan(std::uint64_t elements) {
        constexpr std::uint64_t kValues = std::uint64_t{1} << 16;
        every = std::max<std::uint64_t>(1, elements / kValues);
        if (elements == 0) return;
        const std::uint64_t last = (elements - 1) / kBlock / every;  // sampled block
        count = last * kBlock + std::min(kBlock, elements - last * every * kBlock);
    }
    FEDLLM_HOST_DEVICE std::uint64_t element_of(std::uint64_t sampled) const {
        return sampled / kBlock * every * kBlock + sampled % kBlock;
    }
};

// Whether choose_step() will look at the sample.
bool needs_sample(const Spec& spec, const Size& size);

// The step that `spec` asks for, 0 where all values are as good as zero. `sample`: the values that
// SamplePlan(layout.elements) names, or none where it is not needed.
float choose_step(const Spec& spec, const Layout& layout, const Size& size, std::span<const float> sample);

}  // namespace fedllm::codec::deadzone
