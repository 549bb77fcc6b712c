// kernels/cuda/wgmma.cuh for a host compiler. A product is computed where it is asked for and written where
// it is waited for. Until then its sums are NaN, and they stay NaN where a fence was missing, where
// fragments or tokens had not stayed as they were, or where threads of the warpgroup named different tiles.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <span>

#include "kernels/cuda/emulated_tensor_core.hpp"

namespace fedllm::kernels::cuda {
namespace emulation {

constexpr unsigned kWarpgroup = 128;
constexpr unsigned kWgmmaDepth = 16;
constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

// Column n, depth k of the B that a descriptor means: the address before the swizzle, of which bits 4 to 6
// are xored with bits 7 to 9.
inline const unsigned char* wgmma_element(std::uint64_t descriptor, unsigned n, unsigned k) {
    const auto field = [&](unsigned first) {
        return static_cast<std::uint32_t>(descriptor >> first & 0x3FFF) << 4;
    };
    const std::uint32_t linear = field(0) + n / 8 * field(32) + n % 8 * 128 + 2 * k;
    const bool swizzled = descriptor >> 62 == 1;
    return thread().shared + (swizzled ? linear ^ (linear >> 3 & 0x70) : linear);
}
inline std::vector<float> wgmma_tile(std::uint64_t descriptor, unsigned columns) {
    std::vector<float> tile(kWgmmaDepth * columns);
    for (unsigned n = 0; n < columns; ++n) {
        for (unsigned k = 0; k < kWgmmaDepth; ++k)
            tile[n * kWgmmaDepth + k] = value_at(wgmma_element(descriptor, n, k), 0);
    }
    return tile;
}

struct Wgmma {
    float* d;
    const std::uint32_t* a;
    std::uint64_t b;
    std::size_t group;
    std::vector<float> sums;  // what d will be
    std::array<std::uint32_t, 4> a_then;
    std::vector<float> tile;  // B as it was, with the last thread of the warpgroup alone
};
struct WgmmaWork {
    std::vector<Wgmma> under_way;  // in order
    std::size_t committed = 0;     // groups
    bool fenced = false;
};
WgmmaWork& wgmma_work();  // of the running thread

// All threads of the group brought their Wgmma: its product is added to its sums.
template <unsigned kGroups>
void multiply_for_all(void* const* all) {
    const auto* first = static_cast<const Wgmma*>(all[0]);
    std::vector<float> tile = wgmma_tile(first->b, 8 * kGroups);
    bool agreed = true;
    for (unsigned t = 0; t < kWarpgroup; ++t) agreed &= static_cast<const Wgmma*>(all[t])->b == first->b;
    float left[kWarpgroup / 2][kWgmmaDepth];
    auto row_of = [](unsigned t, unsigned half) { return t / 32 * 16 + t % 32 / 4 + 8 * half; };
    for (unsigned t = 0; t < kWarpgroup; ++t) {
        for (unsigned part = 0; part < 4; ++part) {
            float* to = &left[row_of(t, part % 2)][2 * (t % 4) + 8 * (part / 2)];
            to[0] = low_of(static_cast<const Wgmma*>(all[t])->a[part]);
            to[1] = high_of(static_cast<const Wgmma*>(all[t])->a[part]);
        }
    }
    for (unsigned t = 0; t < kWarpgroup; ++t) {
        auto* mine = static_cast<Wgmma*>(all[t]);
        for (unsigned e = 0; e < 4 * kGroups; ++e) {
            const float* row = left[row_of(t, e / 2 % 2)];
            const float* column = &tile[(e / 4 * 8 + 2 * (t % 4) + e % 2) * kWgmmaDepth];
            float sum = agreed ? 0.0f : kPoison;
            for (unsigned k = 0; k < kWgmmaDepth; ++k) sum += row[k] * column[k];
            mine->sums[e] += sum;
        }
    }
    static_cast<Wgmma*>(all[kWarpgroup - 1])->tile = std::move(tile);
}

// Each thread looks at its own fragment, one at the tile for all.
inline bool wgmma_undisturbed(const Wgmma& product) {
    if (std::memcmp(product.a, product.a_then.data(), sizeof product.a_then) != 0) return false;
    if (product.tile.empty()) return true;
    const std::vector<float> now =
        wgmma_tile(product.b, static_cast<unsigned>(product.tile.size()) / kWgmmaDepth);
    return std::memcmp(now.data(), product.tile.data(), now.size() * sizeof(float)) == 0;
}

// d gets its sums, or the products that follow on the same d are spoilt as it is.
inline void wgmma_finish(Wgmma& product, std::span<Wgmma> later) {
    const bool good = wgmma_undisturbed(product);
    bool last = true;
    for (Wgmma& other : later) {
        if (other.d != product.d) continue;
        last = false;
        if (!good) other.sums.assign(other.sums.size(), kPoison);
    }
    if (!last) return;
    if (!good) product.sums.assign(product.sums.size(), kPoison);
    std::copy(product.sums.begin(), product.sums.end(), product.d);
}

}  // namespace emulation

inline void publish_to_wgmma() { emulation::async_copies().unpublished = false; }

inline std::uint64_t wgmma_operand(const void* tile, unsigned step) {
    const auto at = static_cast<const unsigned char*>(tile) - emulation::thread().shared + 32 * step;
    return (static_cast<std::uint64_t>(at) >> 4 & 0x3FFF) | std::uint64_t{1} << 16 |
           std::uint64_t{1024 >> 4} << 32 | std::uint64_t{1} << 62;
}

inline void wgmma_fence() { emulation::wgmma_work().fenced = true; }
inline void wgmma_commit() {
    auto& work = emulation::wgmma_work();
    ++work.committed;
    work.fenced = false;
}
template <int kPending>
void wgmma_wait() {
    auto& work = emulation::wgmma_work();
    const std::span<emulation::Wgmma> all(work.under_way);
    std::size_t done = 0;
    for (; done < all.size() && all[done].group + kPending < work.committed; ++done)
        emulation::wgmma_finish(all[done], all.subspan(done + 1));
    work.under_way.erase(work.under_way.begin(), work.under_way.begin() + static_cast<std::ptrdiff_t>(done));
}
template <unsigned kGroups>
void wgmma_wait_all(float (&)[kGroups][4]) {
    wgmma_wait<0>();
}

template <unsigned kGroups>
void wgmma_m64k16(float (&d)[kGroups][4], const std::uint32_t (&a)[4], std::uint64_t b) {
    static_assert(kGroups == 8 || kGroups == 16 || kGroups == 32);
    auto& work = emulation::wgmma_work();
    float* flat = &d[0][0];
    emulation::Wgmma mine{flat, a, b, work.committed, {flat, flat + 4 * kGroups}, {}, {}};
    for (const emulation::Wgmma& before : work.under_way) {
        if (before.d == flat) mine.sums = before.sums;
    }
    if (!work.fenced || emulation::async_copies().unpublished)
        mine.sums.assign(mine.sums.size(), emulation::kPoison);
    std::copy(a, a + 4, mine.a_then.begin());
    emulation::meet(emulation::kWarpgroup, &mine, emulation::multiply_for_all<kGroups>);
    std::fill(flat, flat + 4 * kGroups, emulation::kPoison);
    work.under_way.push_back(std::move(mine));
}

}  // namespace fedllm::kernels::cuda
