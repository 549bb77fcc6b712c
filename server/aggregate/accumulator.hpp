// The exact, order-free weighted sum of updates.
//
// Every value is scaled to a 64-bit integer (common/tensor/fixed_point.hpp) and multiplied by its integer
// weight. Integer sums commute: arrival order, thread count, a crash and a resume give the same bits, and
// what was added can be withdrawn exactly. Sums wrap modulo 2^64 on the way, so an upload in flight may
// exceed the bound for a moment; what counts is that the contributions left in at the end keep within the
// weight the scale was chosen for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/tensor/fixed_point.hpp"

namespace fedllm::server::aggregate {

using tensor::FixedPoint;

// Lifecycle: one per round. Memory: 8 bytes per element, whatever the number of clients.
// Concurrency: calls on disjoint element ranges may run at once; otherwise one at a time.
class Accumulator {
public:
    Accumulator(std::uint64_t elements, FixedPoint scale);

    // Values must be finite and within the bound of the scale (ingest has checked them).
    void add(std::uint64_t first_element, std::span<const float> values, std::uint64_t weight);
    void subtract(std::uint64_t first_element, std::span<const float> values, std::uint64_t weight);
    void clear();

    std::uint64_t elements() const { return sums_.size(); }
    FixedPoint scale() const { return scale_; }

    // The weighted mean of elements [first_element, first_element + out.size()): the integer sum divided in
    // double, rounded once to f32. |error| <= 2^-(fraction_bits + 1) + |mean| * (2^-24 + 2^-51). total_weight
    // > 0.
    void mean(std::uint64_t first_element, std::span<float> out, std::uint64_t total_weight) const;
    void mean(std::span<float> out, std::uint64_t total_weight) const { mean(0, out, total_weight); }

private:
    std::vector<std::uint64_t> sums_;  // two's complement, modulo 2^64
    FixedPoint scale_;
};

}  // namespace fedllm::server::aggregate
