#include "server/aggregate/accumulator.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "server/aggregate/accumulator.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fedllm::server::aggregate {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// Adding 1.5 * 2^52 to a double of magnitude up to 2^51 leaves the nearest integer (ties to even) in its low
// mantissa bits: rounding and conversion in one addition, which vectorises everywhere, unlike llrint.
constexpr double kRound = 0x1.8p52;

std::uint64_t to_fixed(float value, double scale) {
    const double shifted = static_cast<double>(value) * scale + kRound;
    return std::bit_cast<std::uint64_t>(shifted) - std::bit_cast<std::uint64_t>(kRound);
}

// A negative weight, modulo 2^64, withdraws.
void AddWeighted64(std::uint64_t* HWY_RESTRICT sums, const float* HWY_RESTRICT values, std::size_t count,
                   std::uint64_t weight, double scale) {
    std::size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
    const hn::ScalableTag<double> d;
    const hn::RebindToUnsigned<decltype(d)> du;
    const hn::Rebind<float, decltype(d)> df;
    const auto round = hn::Set(d, kRound), scales = hn::Set(d, scale);
    const auto weights = hn::Set(du, weight);
    for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
        const auto wide = hn::PromoteTo(d, hn::LoadU(df, values + i));
        const auto shifted = hn::Add(hn::Mul(wide, scales), round);
        const auto fixed = hn::Sub(hn::BitCast(du, shifted), hn::BitCast(du, round));
        hn::StoreU(hn::Add(hn::LoadU(du, sums + i), hn::Mul(fixed, weights)), du, sums + i);
    }
#endif
    for (; i < count; ++i) sums[i] += to_fixed(values[i], scale) * weight;
}

// The scale is a power of two and leaves terms below 2^30, so f32 scales them exactly and an i32 holds them.
void AddWeighted32(std::uint32_t* HWY_RESTRICT sums, const float* HWY_RESTRICT values, std::size_t count,
                   std::uint32_t weight, double scale) {
    std::size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
    const hn::ScalableTag<float> d;
    const hn::RebindToUnsigned<decltype(d)> du;
    const auto scales = hn::Set(d, static_cast<float>(scale));
    const auto weights = hn::Set(du, weight);
    for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
        const auto fixed = hn::NearestInt(hn::Mul(hn::LoadU(d, values + i), scales));
        const auto terms = hn::Mul(hn::BitCast(du, fixed), weights);
        hn::StoreU(hn::Add(hn::LoadU(du, sums + i), terms), du, sums + i);
    }
#endif
    for (; i < count; ++i) sums[i] += static_cast<std::uint32_t>(to_fixed(values[i], scale)) * weight;
}

// Converted, divided and rounded as IEEE says: the same bits in every vector width and without any.
template <class Integer>
void Divide(const Integer* sums, float* out, std::size_t count, double divisor) {
    using Signed = std::make_signed_t<Integer>;
    std::size_t i = 0;
#if HWY_TARGET != HWY_SCALAR
    const hn::ScalableTag<double> d;
    const hn::Rebind<Signed, decltype(d)> di;
    const hn::Rebind<float, decltype(d)> df;
    const auto divisors = hn::Set(d, divisor);
    for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) {
        const auto sum = hn::LoadU(di, reinterpret_cast<const Signed*>(sums + i));
        if constexpr (sizeof(Signed) == 8) {
            hn::StoreU(hn::DemoteTo(df, hn::Div(hn::ConvertTo(d, sum), divisors)), df, out + i);
        } else {
            hn::StoreU(hn::DemoteTo(df, hn::Div(hn::PromoteTo(d, sum), divisors)), df, out + i);
        }
    }
#endif
    for (; i < count; ++i) {
        out[i] = static_cast<float>(static_cast<double>(static_cast<Signed>(sums[i])) / divisor);
    }
}
void Divide64(const std::uint64_t* sums, float* out, std::size_t count, double divisor) {
    Divide(sums, out, count, divisor);
}
void Divide32(const std::uint32_t* sums, float* out, std::size_t count, double divisor) {
    Divide(sums, out, count, divisor);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::server::aggregate
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::server::aggregate {
namespace {

HWY_EXPORT(AddWeighted64);
HWY_EXPORT(AddWeighted32);
HWY_EXPORT(Divide64);
HWY_EXPORT(Divide32);

// Zeroed by the system page by page as they are first touched, in huge pages where it has them: a fault for
// every 4 KiB of the sum cost more than the additions.
void* map_zeroes(std::uint64_t bytes) {
    if (bytes == 0) return nullptr;
    void* const memory =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    FEDLLM_CHECK(memory != MAP_FAILED, "memory for the sum of a round");
    ::madvise(memory, bytes, MADV_HUGEPAGE);
    return memory;
}

// In pieces: whoever maps memory meanwhile waits for one of them.
constexpr std::uint64_t kTakenAtOnce = std::uint64_t{16} << 20;

// Held while one slice is added to one stripe. A standard lock would do; this one is a byte beside its
// stripe, and sleeps in the kernel only when two uploads meet in the same 65,536 values.
class Hold {
public:
    explicit Hold(std::atomic_flag& held) : held_(held) {
        while (held_.test_and_set(std::memory_order_acquire)) held_.wait(true, std::memory_order_relaxed);
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    ~Hold() {
        held_.clear(std::memory_order_release);
        held_.notify_one();
    }

private:
    std::atomic_flag& held_;
};

}  // namespace

Accumulator::Accumulator(std::uint64_t elements, FixedPoint scale, SumBits bits)
    : elements_(elements),
      scale_(scale),
      bits_(bits),
      sums_(map_zeroes(bytes())),
      stripes_(std::make_unique<Stripe[]>(elements / kStripeElements + 1)) {}

Accumulator::~Accumulator() {
    if (sums_) ::munmap(sums_, bytes());
}

void Accumulator::take_memory() {
    for (std::uint64_t taken = 0; taken < bytes(); taken += kTakenAtOnce) {
        const std::uint64_t piece = std::min(bytes() - taken, kTakenAtOnce);
        // Where it fails (kernels before 5.14) the first additions do it.
        ::madvise(static_cast<std::byte*>(sums_) + taken, piece, MADV_POPULATE_WRITE);
    }
}

void Accumulator::add(std::uint64_t first_element, std::span<const float> values, std::uint64_t weight) {
    FEDLLM_CHECK(first_element <= elements_ && values.size() <= elements_ - first_element);
    while (!values.empty()) {
        const std::uint64_t stripe = first_element / kStripeElements;
        const auto part = values.first(
            std::min<std::uint64_t>(values.size(), (stripe + 1) * kStripeElements - first_element));
        const Hold hold(stripes_[stripe].held);
        if (stripes_[stripe].stale) zero(stripe);
        if (bits_ == SumBits::Bits64) {
            HWY_DYNAMIC_DISPATCH(AddWeighted64)
            (static_cast<std::uint64_t*>(sums_) + first_element, part.data(), part.size(), weight,
             scale_.scale());
        } else {
            HWY_DYNAMIC_DISPATCH(AddWeighted32)
            (static_cast<std::uint32_t*>(sums_) + first_element, part.data(), part.size(),
             static_cast<std::uint32_t>(weight), scale_.scale());
        }
        first_element += part.size();
        values = values.subspan(part.size());
    }
}

void Accumulator::subtract(std::uint64_t first_element, std::span<const float> values, std::uint64_t weight) {
    add(first_element, values, std::uint64_t{0} - weight);
}

void Accumulator::clear() {
    for (std::uint64_t i = 0; i <= elements_ / kStripeElements; ++i) stripes_[i].stale = true;
}

void Accumulator::zero(std::uint64_t stripe) {
    const std::uint64_t first = stripe * kStripeElements;
    const std::uint64_t count = std::min(elements_ - first, kStripeElements);
    std::memset(static_cast<std::byte*>(sums_) + first * element_bytes(), 0, count * element_bytes());
    stripes_[stripe].stale = false;
}

void Accumulator::mean(std::uint64_t first_element, std::span<float> out, std::uint64_t total_weight) const {
    FEDLLM_CHECK(total_weight > 0);
    FEDLLM_CHECK(first_element <= elements_ && out.size() <= elements_ - first_element);
    const double divisor = scale_.scale() * static_cast<double>(total_weight);
    while (!out.empty()) {
        const std::uint64_t stripe = first_element / kStripeElements;
        const auto part =
            out.first(std::min<std::uint64_t>(out.size(), (stripe + 1) * kStripeElements - first_element));
        if (stripes_[stripe].stale) {
            std::fill(part.begin(), part.end(), 0.0F);
        } else if (bits_ == SumBits::Bits64) {
            HWY_DYNAMIC_DISPATCH(Divide64)
            (static_cast<const std::uint64_t*>(sums_) + first_element, part.data(), part.size(), divisor);
        } else {
            HWY_DYNAMIC_DISPATCH(Divide32)
            (static_cast<const std::uint32_t*>(sums_) + first_element, part.data(), part.size(), divisor);
        }
        first_element += part.size();
        out = out.subspan(part.size());
    }
}

}  // namespace fedllm::server::aggregate
#endif
