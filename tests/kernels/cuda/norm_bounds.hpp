// What the cases of the norms share: how far f32 sums may be from exact ones, from how the kernels sum.
#pragma once

#include <cstddef>
#include <vector>

#include "tests/kernels/cuda/harness.hpp"
#include "tests/kernels/reference.hpp"

namespace fedllm::kernels::cuda::cases {

constexpr double kHalfUlpBf16 = 1.0 / 256;       // relative
constexpr double kHalfUlpF32 = 1.0 / (1 << 24);  // relative

// A thread sums 32 columns, or of rows too long for registers one in 256, a tree of at most 10 steps adds up
// the threads, and some ten operations make an element of the sums.
inline double row_error(std::size_t cols) {
    return kHalfUlpF32 * (32.0 + static_cast<double>(cols) / 256 + 10 + 10);
}
// A warp sums 2 rows of a strip, or 1/1024 of very many; 8 warps; 128 strips, times the groups, by 8 warps.
inline double column_error(std::size_t rows, std::size_t groups) {
    return kHalfUlpF32 *
           (2.0 + static_cast<double>(rows) / 1024 + 8 + 16.0 * static_cast<double>(groups) + 8 + 10);
}

inline reference::Dense dense(std::size_t rows, std::size_t cols, const std::vector<double>& values) {
    reference::Dense made(rows, cols);
    made.values = values;
    return made;
}
inline std::vector<double> doubles(const std::vector<float>& values) {
    return {values.begin(), values.end()};
}

// Values of about one, none alike within a row.
inline std::vector<float> random_vector(std::size_t size, unsigned seed) {
    std::vector<float> made(size);
    for (std::size_t i = 0; i < size; ++i)
        made[i] = 0.5f + static_cast<float>((i * 2654435761U + seed * 40503U) % 1009) / 1009.0f;
    return made;
}

// A vector of f32 that need not start on 16 bytes: where `offset` is 1 it does not.
struct TestVector {
    DeviceBuffer<float> buffer;
    std::size_t offset;

    float* data() const { return buffer.data() + offset; }
};
inline TestVector vector_at(const Stream& stream, std::size_t offset, const std::vector<float>& values) {
    std::vector<float> host(offset, NAN);
    host.insert(host.end(), values.begin(), values.end());
    return {to_device<float>(stream, host), offset};
}

// Room for partial sums, full of NaN.
inline DeviceBuffer<float> poisoned(const Stream& stream, std::size_t size) {
    DeviceBuffer<float> made(size);
    fill_bytes(stream, made.data(), 0xFF, made.bytes());
    return made;
}

}  // namespace fedllm::kernels::cuda::cases
