#include "common/base/philox.hpp"

#include <cmath>
#include <numbers>

#include "common/base/result.hpp"

namespace fedllm {

std::uint32_t Rng::next_u32() {
    if (used_ == 4) {
        words_ = philox4x32({static_cast<std::uint32_t>(block_), static_cast<std::uint32_t>(block_ >> 32),
                             static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32)},
                            {static_cast<std::uint32_t>(seed_), static_cast<std::uint32_t>(seed_ >> 32)});
        ++block_;
        used_ = 0;
    }
    return words_[used_++];
}

std::uint64_t Rng::next_u64() {
    const std::uint64_t low = next_u32();
    return low | (std::uint64_t{next_u32()} << 32);
}

float Rng::uniform() { return static_cast<float>(next_u32() >> 8) * 0x1p-24f; }

float Rng::uniform(float low, float high) { return low + (high - low) * uniform(); }

float Rng::normal() {
    const double u = (static_cast<double>(next_u32()) + 1.0) * 0x1p-32;  // (0, 1]: the logarithm stays finite
    const double v = static_cast<double>(next_u32()) * 0x1p-32;
    return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v));
}

std::uint64_t Rng::below(std::uint64_t bound) {
    FEDLLM_CHECK(bound > 0);
    const std::uint64_t limit = bound * (~std::uint64_t{0} / bound);  // the largest multiple of bound
    std::uint64_t value = next_u64();
    while (value >= limit) value = next_u64();
    return value % bound;
}

}  // namespace fedllm
