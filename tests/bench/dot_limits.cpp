#include "tests/bench/dot_limits.hpp"

#include <immintrin.h>
#include <time.h>

#include <algorithm>
#include <vector>

namespace fedllm::bench {
namespace {

constexpr std::size_t kChains = 12;  // hide the latency of two units

__attribute__((target("avx512f,avx512vnni"))) int vnni_chains(std::size_t rounds, int seed) {
    __m512i sum[kChains];
    const __m512i a = _mm512_set1_epi32(seed), b = _mm512_set1_epi32(seed + 1);
#pragma GCC unroll 12
    for (std::size_t i = 0; i < kChains; ++i)
        sum[i] = _mm512_set1_epi32(static_cast<int>(i));  // all different
    for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
        for (auto& one : sum) one = _mm512_dpbusd_epi32(one, a, b);
    }
    __m512i total = sum[0];
#pragma GCC unroll 12
    for (std::size_t i = 1; i < kChains; ++i) total = _mm512_add_epi32(total, sum[i]);
    return _mm512_cvtsi512_si32(total);
}

__attribute__((target("avx512f,avx512bf16"))) int bf16_chains(std::size_t rounds, int seed) {
    __m512 sum[kChains];
    const auto a = (__m512bh)_mm512_set1_epi32(0x3C003C00 + seed),
               b = (__m512bh)_mm512_set1_epi32(0x3C013C01);
#pragma GCC unroll 12
    for (std::size_t i = 0; i < kChains; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
    for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
        for (auto& one : sum) one = _mm512_dpbf16_ps(one, a, b);
    }
    __m512 total = sum[0];
#pragma GCC unroll 12
    for (std::size_t i = 1; i < kChains; ++i) total = _mm512_add_ps(total, sum[i]);
    return static_cast<int>(_mm512_cvtss_f32(total));
}

double thread_seconds() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Every body is timed by the clock of its own thread; the median of them is kept.
double rate(kernels::ThreadPool& pool, int (*chains)(std::size_t, int), double products) {
    constexpr std::size_t kRounds = 1 << 18;
    std::vector<int> sinks(8 * pool.threads());
    std::vector<double> seconds(sinks.size());
    pool.parallel_for(sinks.size(), [&](std::size_t i) {
        const double start = thread_seconds();
        sinks[i] = chains(kRounds, static_cast<int>(i));
        seconds[i] = thread_seconds() - start;
    });
    std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
    return 2.0 * products * static_cast<double>(kRounds * kChains) / seconds[seconds.size() / 2];
}

}  // namespace

double vnni_operations_per_core_second(kernels::ThreadPool& pool) {
    return __builtin_cpu_supports("avx512vnni") ? rate(pool, vnni_chains, 64.0) : 0;
}

double bf16_operations_per_core_second(kernels::ThreadPool& pool) {
    return __builtin_cpu_supports("avx512bf16") ? rate(pool, bf16_chains, 32.0) : 0;
}

}  // namespace fedllm::bench
