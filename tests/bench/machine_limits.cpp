#include "tests/bench/machine_limits.hpp"

#include <time.h>

#include <algorithm>
#include <cstring>
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

constexpr int kWindows = 7;  // the median of short windows: other processes steal whole ones

template <class Work>
double median_rate(Work&& work) {
    std::vector<double> rates;
    for (int window = 0; window < kWindows; ++window) {
        const double start = core_seconds();
        const double done = work();
        rates.push_back(done / (core_seconds() - start));
    }
    std::sort(rates.begin(), rates.end());
    return rates[kWindows / 2];
}

}  // namespace

double fma_flops_per_core_second(kernels::ThreadPool& pool) {
    std::vector<float> sinks(pool.threads() * 16);
    return median_rate([&] {
        std::vector<double> done(pool.threads() * 8);
        pool.parallel_for(pool.threads(), [&](std::size_t i) {
            done[i * 8] = HWY_DYNAMIC_DISPATCH(FmaChains)(400'000, sinks[i * 16] * 0.0f, &sinks[i * 16]);
        });
        double total = 0.0;
        for (const double part : done) total += part;
        return total;
    });
}

double copy_bytes_per_core_second(kernels::ThreadPool& pool) {
    constexpr std::size_t kBytes = 64u << 20, kPart = 1u << 20;
    static std::vector<char> from(kBytes, 1), to(kBytes, 2);
    return median_rate([&] {
        pool.parallel_for(kBytes / kPart,
                          [&](std::size_t i) { std::memcpy(&to[i * kPart], &from[i * kPart], kPart); });
        return 2.0 * static_cast<double>(kBytes);
    });
}

double core_seconds() {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::string instruction_set() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace fedllm::bench
#endif
