// kernels/cuda/tensor_core.cuh for a host compiler. An asynchronous copy is done when its thread waits for
// it, and until then its target is NaN: a missing wait shows.
#pragma once

#include <cmath>
#include <cstring>
#include <deque>
#include <unordered_map>
#include <vector>

#include "kernels/cuda/device_code.cuh"

namespace fedllm::kernels::cuda {
namespace emulation {

struct AsyncCopy {
    void* shared;
    const void* global;
    unsigned bytes;
};
struct AsyncCopies {
    std::vector<AsyncCopy> open;
    std::deque<std::vector<AsyncCopy>> groups;
    bool unpublished = false;  // copies came in that wgmma does not see yet
};
// Of the running thread; what a thread leaves behind unwaited is an error of the kernel, and goes with the
// block.
AsyncCopies& async_copies();

inline float value_at(const void* row, unsigned index) {
    BF16 value;
    std::memcpy(&value, static_cast<const unsigned char*>(row) + 2 * index, sizeof value);
    return widen(value);
}
struct Rows {
    std::uint32_t* r;
    const void* row;
};
template <bool kTranspose>
void load_for_all(void* const* all) {
    for (unsigned lane = 0; lane < 32; ++lane) {
        const unsigned g = lane / 4, i = lane % 4;
        for (unsigned matrix = 0; matrix < 4; ++matrix) {
            std::uint16_t pair[2];
            for (unsigned e = 0; e < 2; ++e) {
                const unsigned at_row = kTranspose ? 2 * i + e : g;
                const unsigned at_column = kTranspose ? g : 2 * i + e;
                const auto* from = static_cast<const Rows*>(all[8 * matrix + at_row])->row;
                std::memcpy(&pair[e], static_cast<const std::uint16_t*>(from) + at_column, 2);
            }
            static_cast<Rows*>(all[lane])->r[matrix] = pair[0] | static_cast<std::uint32_t>(pair[1]) << 16;
        }
    }
}
struct Mma {
    float* d;
    const std::uint32_t* a;
    const std::uint32_t* b;
};
// Constant indices alone: under sanitizers the checks would be most of the work.
__attribute__((no_sanitize("address", "undefined"))) inline void multiply_tile(const float (&left)[16][16],
                                                                               const float (&right)[16][8],
                                                                               float (&sums)[16][8]) {
    for (unsigned row = 0; row < 16; ++row) {
        for (unsigned k = 0; k < 16; ++k) {
            for (unsigned column = 0; column < 8; ++column)
                sums[row][column] += left[row][k] * right[k][column];
        }
    }
}

}  // namespace emulation

inline void copy_async_part(void* shared, const void* global, unsigned bytes) {
    std::memset(shared, 0xFF, 16);
    emulation::async_copies().open.push_back({shared, global, bytes});
}
inline void copy_async_16(void* shared, const void* global, bool valid = true) {
    copy_async_part(shared, global, valid ? 16 : 0);
}
inline void copy_async_commit() {
    auto& copies = emulation::async_copies();
    copies.groups.push_back(std::move(copies.open));
    copies.open.clear();
}
template <int kPending>
void copy_async_wait() {
    auto& groups = emulation::async_copies().groups;
    for (; groups.size() > kPending; groups.pop_front()) {
        emulation::async_copies().unpublished |= !groups.front().empty();
        for (const emulation::AsyncCopy& copy : groups.front()) {
            std::memset(copy.shared, 0, 16);
            if (copy.bytes != 0) std::memcpy(copy.shared, copy.global, copy.bytes);
        }
    }
}

inline void load_matrices(std::uint32_t (&r)[4], const void* row) {
    emulation::Rows mine{r, row};
    emulation::meet(32, &mine, emulation::load_for_all<false>);
}
inline void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
    emulation::Rows mine{r, row};
    emulation::meet(32, &mine, emulation::load_for_all<true>);
}

inline void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    emulation::Mma mine{d, a, b};
    emulation::meet(32, &mine, [](void* const* all) {
        float left[16][16], right[16][8];
        for (unsigned lane = 0; lane < 32; ++lane) {
            const unsigned g = lane / 4, i = lane % 4;
            const auto* from = static_cast<const emulation::Mma*>(all[lane]);
            for (unsigned part = 0; part < 4; ++part) {
                const unsigned row = g + 8 * (part % 2), column = 2 * i + 8 * (part / 2);
                left[row][column] = low_of(from->a[part]);
                left[row][column + 1] = high_of(from->a[part]);
            }
            for (unsigned part = 0; part < 2; ++part) {
                right[2 * i + 8 * part][g] = low_of(from->b[part]);
                right[2 * i + 8 * part + 1][g] = high_of(from->b[part]);
            }
        }
        float sums[16][8] = {};
        emulation::multiply_tile(left, right, sums);
        for (unsigned lane = 0; lane < 32; ++lane) {
            const unsigned g = lane / 4, i = lane % 4;
            auto* to = static_cast<emulation::Mma*>(all[lane]);
            for (unsigned e = 0; e < 4; ++e) to->d[e] += sums[g + 8 * (e / 2)][2 * i + e % 2];
        }
    });
}

inline float exp2_approximate(float x) { return x < -126.0f ? 0.0f : std::exp2(x); }

}  // namespace fedllm::kernels::cuda
