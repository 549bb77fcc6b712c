#include "tests/bench/machine_limits.hpp"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/machine_limits.cpp"
#include "hwy/foreach_target.h"  // IWYU pragma: keep

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fedllm::bench {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// Twelve independent chains hide the latency of two units. Returns the operations done.
double FmaChains(std::size_t rounds, float seed, float* sink) {
    const hn::ScalableTag<float> d;
    constexpr std::size_t kChains = 12;
    const auto factor = hn::Set(d, 0.999f + seed), term = hn::Set(d, 0.001f + seed);
    hn::Vec<decltype(d)> sums[kChains];
    for (auto& sum : sums) sum = hn::Set(d, seed);
    for (std::size_t i = 0; i < rounds; ++i) {
        for (auto& sum : sums) sum = hn::MulAdd(sum, factor, term);
    }
    auto total = hn::Zero(d);
    for (const auto& sum : sums) total = hn::Add(total, sum);
    *sink = hn::GetLane(hn::SumOfLanes(d, total));
    return 2.0 * static_cast<double>(rounds * kChains * hn::Lanes(d));
}

std::string TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace fedllm::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fedllm::bench {
namespace {

HWY_EXPORT(FmaChains);
HWY_EXPORT(TargetName);

constexpr int kWindows = 7;  // the median of several windows: other processes disturb whole ones

double seconds_of(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The rate of `parts` bodies of `amount` each. Every body is timed by the clock of the thread that runs it:
// the clock of the process counts other running threads only tick by tick, and was seen wrong fivefold over a
// millisecond.
template <class Body>
double median_rate(kernels::ThreadPool& pool, std::size_t parts, double amount, Body&& body) {
    std::vector<double> rates, seconds(parts);
    for (int window = 0; window < kWindows; ++window) {
        pool.parallel_for(parts, [&](std::size_t i) {
            const double start = seconds_of(CLOCK_THREAD_CPUTIME_ID);
            body(i);
            seconds[i] = seconds_of(CLOCK_THREAD_CPUTIME_ID) - start;
        });
        rates.push_back(amount * static_cast<double>(parts) /
                        std::accumulate(seconds.begin(), seconds.end(), 0.0));
    }
    std::sort(rates.begin(), rates.end());
    return rates[kWindows / 2];
}

}  // namespace

double fma_flops_per_core_second(kernels::ThreadPool& pool) {
    constexpr std::size_t kRounds = 4'000'000;  // about ten milliseconds
    std::vector<float> sinks(pool.threads() * 16);
    float unused = 0.0f;
    const double amount = HWY_DYNAMIC_DISPATCH(FmaChains)(1, 0.0f, &unused) * static_cast<double>(kRounds);
    return median_rate(pool, pool.threads(), amount, [&](std::size_t i) {
        HWY_DYNAMIC_DISPATCH(FmaChains)(kRounds, sinks[i * 16] * 0.0f, &sinks[i * 16]);
    });
}

double copy_bytes_per_core_second(kernels::ThreadPool& pool) {
    constexpr std::size_t kBytes = 64u << 20, kPart = 4u << 20;
    static std::vector<char> from(kBytes, 1), to(kBytes, 2);
    return median_rate(pool, kBytes / kPart, 2.0 * static_cast<double>(kPart),
                       [&](std::size_t i) { std::memcpy(&to[i * kPart], &from[i * kPart], kPart); });
}

double core_seconds() { return seconds_of(CLOCK_PROCESS_CPUTIME_ID); }

std::string instruction_set() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace fedllm::bench
#endif
