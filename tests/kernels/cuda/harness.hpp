// Cases of CUDA operations, without a test library: the same program runs on a bare GPU machine (device
// bodies) and in ctest (bodies compiled for the emulation). A main() calls its cases through check() and
// close().
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/bf16.hpp"
#include "kernels/cuda/runtime.hpp"
#include "kernels/cuda/views.hpp"

namespace fedllm::kernels::cuda::cases {

constexpr int kSkipped = 77;  // ctest's and automake's sign for "could not run here"

class Harness {
public:
    // Names the case that what follows belongs to.
    void begin(std::string name) {
        name_ = std::move(name);
        ++cases_;
    }
    void check(bool holds, const std::string& what) {
        if (holds) return;
        ++failures_;
        std::printf("FAILED %s: %s\n", name_.c_str(), what.c_str());
    }
    // |got - want| <= bound of each element.
    template <class Bound>
    void close(std::span<const float> got, std::span<const double> want, Bound&& bound, const char* what) {
        check(got.size() == want.size(), std::string(what) + ": different sizes");
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < got.size() && i < want.size(); ++i) {
            const double most = bound(i);
            if (std::fabs(double{got[i]} - want[i]) <= most) continue;  // false for NaN
            if (++wrong == 1) {
                char text[160];
                std::snprintf(text, sizeof text, "%s[%zu] is %.9g, expected %.9g within %.3g", what, i,
                              double{got[i]}, want[i], most);
                check(false, text);
            }
        }
        if (wrong > 1) std::printf("       and %zu more elements of %s\n", wrong - 1, what);
    }
    // What could not be tested here, and why.
    void skip(const std::string& why) { std::printf("skipped: %s\n", why.c_str()); }
    int finish() const {
        std::printf("%zu cases, %zu failed checks\n", cases_, failures_);
        return failures_ == 0 ? 0 : 1;
    }

private:
    std::string name_ = "(no case)";
    std::size_t cases_ = 0;
    std::size_t failures_ = 0;
};

// Runs `cases` where there is a GPU (or its emulation): the whole of a main().
template <class Cases>
int run(Cases&& cases) {
    if (device_count() == 0) {
        std::printf("skipped: no GPU\n");
        return kSkipped;
    }
    Harness harness;
    try {
        cases(harness);
    } catch (const GpuError& error) {
        harness.check(false, error.what());
    }
    return harness.finish();
}

// Copies that wait.
template <class T>
DeviceBuffer<T> to_device(const Stream& stream, std::span<const T> host) {
    DeviceBuffer<T> device(host.size());
    copy_to_device(stream, device.data(), host.data(), host.size() * sizeof(T));
    stream.synchronize();
    return device;
}
template <class T>
std::vector<T> to_host(const Stream& stream, const T* device, std::size_t count) {
    std::vector<T> host(count);
    copy_to_host(stream, host.data(), device, count * sizeof(T));
    stream.synchronize();
    return host;
}

// A signalling NaN: arithmetic on it gives other bits, so that a gap that is read and written back shows.
constexpr BF16 kUntouched{0xFF81};

// A (rows, cols) bf16 matrix on the device with a pitch, its gap and surroundings NaN, and the same values in
// double: what an oracle reads is what the kernel reads.
struct TestMatrix {
    std::size_t rows = 0, cols = 0, pitch = 0;
    std::vector<double> values;  // rows * cols
    DeviceBuffer<BF16> device;

    MatrixView<BF16> view() const { return {device.data(), rows, cols, pitch}; }
};

// Uniform in [-1, 1) by a small generator; `gap` more columns of pitch.
inline TestMatrix random_matrix(const Stream& stream, std::size_t rows, std::size_t cols, unsigned seed,
                                double scale = 1.0, std::size_t gap = 0) {
    TestMatrix made;
    made.rows = rows;
    made.cols = cols;
    made.pitch = (cols + 7) / 8 * 8 + gap / 8 * 8;
    made.values.resize(rows * cols);
    std::vector<BF16> host(rows * made.pitch, kUntouched);
    std::uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 1;
    for (std::size_t r = 0; r < rows; ++r) {
        for (std::size_t c = 0; c < cols; ++c) {
            state = state * 6364136223846793005ULL + 1442695040888963407ULL;
            const double unit = static_cast<double>(state >> 11) / 9007199254740992.0;
            const BF16 value = narrow(static_cast<float>((2 * unit - 1) * scale));
            host[r * made.pitch + c] = value;
            made.values[r * cols + c] = widen(value);
        }
    }
    made.device = to_device<BF16>(stream, host);
    return made;
}
// The same shape, all NaN: for outputs.
inline TestMatrix empty_matrix(const Stream& stream, std::size_t rows, std::size_t cols,
                               std::size_t gap = 0) {
    TestMatrix made = random_matrix(stream, rows, cols, 0, 0.0, gap);
    made.device = to_device<BF16>(stream, std::vector<BF16>(rows * made.pitch, kUntouched));
    made.values.clear();
    return made;
}
// What lies in the matrix; the gap must still be NaN, which `harness` checks.
inline std::vector<float> values_of(Harness& harness, const Stream& stream, const TestMatrix& matrix) {
    const std::vector<BF16> host = to_host(stream, matrix.device.data(), matrix.rows * matrix.pitch);
    std::vector<float> values;
    bool untouched = true;
    for (std::size_t r = 0; r < matrix.rows; ++r) {
        for (std::size_t c = 0; c < matrix.pitch; ++c) {
            const BF16 value = host[r * matrix.pitch + c];
            if (c < matrix.cols) values.push_back(widen(value));
            if (c >= matrix.cols) untouched = untouched && value.bits == kUntouched.bits;
        }
    }
    harness.check(untouched, "columns between cols and pitch were written");
    return values;
}

}  // namespace fedllm::kernels::cuda::cases
