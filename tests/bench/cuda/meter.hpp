// Times operations on the GPU beside what the GPU itself can do, measured in the same run.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "kernels/matmul/op_cuda.hpp"

namespace fedllm::bench {

namespace cuda = kernels::cuda;

// Reads all of `data`, and nothing of it stays changed: what the L2 held before is gone. (sweep.cu)
void sweep(const cuda::Stream& stream, const cuda::DeviceBuffer<unsigned char>& data);

// bf16 uniform in [-1, 1): products of zeros would run faster than those of values.
cuda::DeviceBuffer<cuda::BF16> random_bf16(const cuda::Stream& stream, std::size_t count);
cuda::DeviceBuffer<float> random_f32(const cuda::Stream& stream, std::size_t count);
inline cuda::DeviceMatrix view(const cuda::DeviceBuffer<cuda::BF16>& of, std::size_t rows, std::size_t cols) {
    return {of.data(), rows, cols, cols};
}

// A matrix in E4M3 with a scale per row.
class Codes {
public:
    Codes(const cuda::Stream& stream, cuda::ConstDeviceMatrix from);
    cuda::GemmOperand operand(bool turned) const;
    std::uint8_t* data() const { return codes_.data(); }
    float* scales() const { return scales_.data(); }
    std::size_t pitch() const { return pitch_; }

private:
    std::size_t pitch_;
    cuda::DeviceBuffer<std::uint8_t> codes_;
    cuda::DeviceBuffer<float> scales_;
};

enum class Peak { None, BF16, E4M3 };

// What one call does at the least: bytes of memory touched once, multiplications and additions.
struct Work {
    std::string name, shape;
    double bytes = 0;
    double flops = 0;
    Peak peak = Peak::None;
};

// Prints one line per operation. Lifecycle: measures the ceilings at construction.
class Meter {
public:
    // `filter`: a part of the names to measure, empty for all. `tiny`: shapes to try the benchmark itself.
    Meter(std::string filter, bool tiny);

    const cuda::Stream& stream() const { return stream_; }
    bool tiny() const { return tiny_; }
    bool wants(const std::string& name) const { return name.find(filter_) != std::string::npos; }
    bool failed() const { return failed_; }

    void print_header() const;  // of measure()'s lines
    void measure(const Work& work, const std::function<void()>& call);
    // Median of a few calls, each on a cold L2.
    double seconds(const std::function<void()>& call) const;
    double bf16_rate() const { return bf16_rate_; }  // of products, multiplications and additions per second

private:
    double product_rate(Peak peak) const;

    std::string filter_;
    bool tiny_;
    bool failed_ = false;
    cuda::Stream stream_;
    cuda::DeviceBuffer<unsigned char> cold_;
    double copy_rate_ = 0, bf16_rate_ = 0, e4m3_rate_ = 0;  // per second
};

}  // namespace fedllm::bench
