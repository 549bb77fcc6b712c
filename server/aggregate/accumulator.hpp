// The exact, order-free weighted sum of updates.
//
// Every value is scaled to an integer (common/tensor/fixed_point.hpp) and multiplied by its integer weight.
// Integer sums commute: arrival order, thread count, a crash and a resume give the same bits, and what was
// added can be withdrawn exactly. Sums wrap modulo 2^64 (2^32) on the way, so an upload in flight may exceed
// the bound for a moment; what counts is that the contributions left in at the end keep within the weight the
// scale was chosen for.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "common/tensor/fixed_point.hpp"

namespace fedllm::server::aggregate {

using tensor::FixedPoint;
using tensor::SumBits;

// Lifecycle: one per round, or cleared and taken for the next: fresh memory costs more than the additions.
// Memory: 8 bytes (4 with 32-bit sums) per element, whatever the number of clients; pages that nothing was
// ever added to take none.
// Concurrency: any threads may add and subtract at once, in any ranges: exclusion is by stripes of
// kStripeElements, held for the microseconds that one slice takes. mean() and clear() are called when all
// that is done.
class Accumulator {
public:
    Accumulator(std::uint64_t elements, FixedPoint scale, SumBits bits = SumBits::Bits64);
    ~Accumulator();
    Accumulator(const Accumulator&) = delete;
    Accumulator& operator=(const Accumulator&) = delete;

    // Values must be finite and within the bound of the scale (ingest has checked them).
    void add(std::uint64_t first_element, std::span<const float> values, std::uint64_t weight);
    void subtract(std::uint64_t first_element, std::span<const float> values, std::uint64_t weight);

    // All its memory now, not page by page in the first round: fresh pages cost more than the additions. May run
    // beside them.
    void take_memory();

    void clear();  // all sums are 0 again; the memory stays, and is zeroed where something is added to it

    std::uint64_t elements() const { return elements_; }
    FixedPoint scale() const { return scale_; }

    // The weighted mean of elements [first_element, first_element + out.size()): the integer sum divided in
    // double, rounded once to f32. |error| <= 2^-(fraction_bits + 1) + |mean| * (2^-24 + 2^-51). total_weight
    // > 0.
    void mean(std::uint64_t first_element, std::span<float> out, std::uint64_t total_weight) const;
    void mean(std::span<float> out, std::uint64_t total_weight) const { mean(0, out, total_weight); }

    static constexpr std::uint64_t kStripeElements = std::uint64_t{1} << 16;

private:
    struct alignas(64) Stripe {  // a cache line each: neighbours must not slow each other
        std::atomic_flag held;
        bool stale = false;  // its sums are of before clear(), and count as 0
    };
    std::uint64_t bytes() const { return elements_ * element_bytes(); }
    std::uint64_t element_bytes() const { return static_cast<std::uint64_t>(bits_) / 8; }
    void zero(std::uint64_t stripe);

    std::uint64_t elements_;
    FixedPoint scale_;
    SumBits bits_;
    void* sums_;  // u64 or u32, two's complement; a zeroed anonymous mapping
    std::unique_ptr<Stripe[]> stripes_;
};

}  // namespace fedllm::server::aggregate
