#include "server/aggregate/accumulator.hpp"

#include <algorithm>
#include <bit>

namespace fedllm::server::aggregate {
namespace {

// Adding 1.5 * 2^52 to a double of magnitude up to 2^51 leaves the nearest integer (ties to even) in its low
// mantissa bits: rounding and conversion in one addition, which vectorises everywhere, unlike llrint.
constexpr double kRound = 0x1.8p52;

std::uint64_t to_fixed(float value, double scale) {
    const double shifted = static_cast<double>(value) * scale + kRound;
    return std::bit_cast<std::uint64_t>(shifted) - std::bit_cast<std::uint64_t>(kRound);
}

// A negative weight, modulo 2^64, withdraws.
void add_weighted(std::span<std::uint64_t> sums, std::span<const float> values, std::uint64_t weight,
                  double scale) {
    const std::size_t n = values.size();
    std::uint64_t* const sum = sums.data();
    const float* const value = values.data();
    for (std::size_t i = 0; i < n; ++i) sum[i] += to_fixed(value[i], scale) * weight;
}

}  // namespace

Accumulator::Accumulator(std::uint64_t elements, FixedPoint scale) : sums_(elements), scale_(scale) {}

void Accumulator::add(std::uint64_t first_element, std::span<const float> values, std::uint64_t weight) {
    FEDLLM_CHECK(first_element <= sums_.size() && values.size() <= sums_.size() - first_element);
    add_weighted(std::span(sums_).subspan(first_element, values.size()), values, weight, scale_.scale());
}

void Accumulator::subtract(std::uint64_t first_element, std::span<const float> values, std::uint64_t weight) {
    add(first_element, values, std::uint64_t{0} - weight);
}

void Accumulator::clear() { std::fill(sums_.begin(), sums_.end(), 0); }

void Accumulator::mean(std::uint64_t first_element, std::span<float> out, std::uint64_t total_weight) const {
    FEDLLM_CHECK(total_weight > 0);
    FEDLLM_CHECK(first_element <= sums_.size() && out.size() <= sums_.size() - first_element);
    const double divisor = scale_.scale() * static_cast<double>(total_weight);
    const std::uint64_t* const sum = sums_.data() + first_element;
    for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = static_cast<float>(static_cast<double>(static_cast<std::int64_t>(sum[i])) / divisor);
    }
}

}  // namespace fedllm::server::aggregate
