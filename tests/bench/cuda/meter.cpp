#include "tests/bench/cuda/meter.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <span>
#include <vector>

#include "kernels/quantize/op_cuda.hpp"

namespace fedllm::bench {
namespace {

constexpr int kWarm = 3;
constexpr int kRuns = 11;

// `count` elements on the device, by doubling a pattern of the host's.
template <class T>
cuda::DeviceBuffer<T> repeated(const cuda::Stream& stream, std::span<const T> pattern, std::size_t count) {
    cuda::DeviceBuffer<T> made(count);
    std::size_t done = std::min(count, pattern.size());
    cuda::copy_to_device(stream, made.data(), pattern.data(), done * sizeof(T));
    for (; done < count; done += std::min(done, count - done))
        cuda::copy_on_device(stream, made.data() + done, made.data(),
                             std::min(done, count - done) * sizeof(T));
    stream.synchronize();
    return made;
}

float uniform(std::uint64_t& state) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<float>(state >> 40) / 8388608.0f - 1.0f;
}
constexpr std::size_t kPattern = (1 << 20) - 3;  // odd: rows differ

}  // namespace

cuda::DeviceBuffer<cuda::BF16> random_bf16(const cuda::Stream& stream, std::size_t count) {
    std::vector<cuda::BF16> pattern(std::min(count, kPattern));
    std::uint64_t state = count;
    for (cuda::BF16& value : pattern) value = cuda::narrow(uniform(state));
    return repeated<cuda::BF16>(stream, pattern, count);
}
cuda::DeviceBuffer<float> random_f32(const cuda::Stream& stream, std::size_t count) {
    std::vector<float> pattern(std::min(count, kPattern));
    std::uint64_t state = count;
    for (float& value : pattern) value = uniform(state);
    return repeated<float>(stream, pattern, count);
}

Codes::Codes(const cuda::Stream& stream, cuda::ConstDeviceMatrix from)
    : pitch_((from.cols + 15) / 16 * 16), codes_(from.rows * pitch_), scales_(from.rows) {
    cuda::quantize_e4m3_rows(stream, from, codes_.data(), pitch_, scales_.data());
}
cuda::GemmOperand Codes::operand(bool turned) const {
    return {codes_.data(), cuda::Element::E4M3, pitch_, turned, scales_.data()};
}

Meter::Meter(std::string filter, bool tiny)
    : filter_(std::move(filter)), tiny_(tiny), cold_(tiny ? 4096 : std::size_t{256} << 20) {
    const cuda::DeviceProperties& gpu = cuda::device_properties();
    std::printf("%s, sm_%d%d, %u multiprocessors, %.0f MB of L2\n", gpu.name.c_str(), gpu.compute_major,
                gpu.compute_minor, gpu.multiprocessors, static_cast<double>(gpu.l2_bytes) / 1e6);
    cuda::fill_bytes(stream_, cold_.data(), 0, cold_.bytes());
    const std::size_t bytes = tiny ? 4096 : std::size_t{1} << 30;
    const cuda::DeviceBuffer<unsigned char> from(bytes);
    const cuda::DeviceBuffer<unsigned char> to(bytes);
    const auto rate = [](double amount, double took) { return took > 0 ? amount / took : 0.0; };
    const auto twice = 2 * static_cast<double>(bytes);
    copy_rate_ = rate(twice, seconds([&] { cuda::copy_on_device(stream_, to.data(), from.data(), bytes); }));
    const double read_rate =
        rate(static_cast<double>(cold_.bytes()), seconds([&] { sweep(stream_, cold_); }));
    bf16_rate_ = product_rate(Peak::BF16);
    try {
        e4m3_rate_ = product_rate(Peak::E4M3);
    } catch (const cuda::GpuError& error) {
        std::printf("no E4M3: %s\n", error.what());
    }
    std::printf("ceilings: copy %.2f TB/s, read %.2f TB/s, bf16 %.0f TFLOP/s, e4m3 %.0f TFLOP/s (8192^3)\n",
                copy_rate_ / 1e12, read_rate / 1e12, bf16_rate_ / 1e12, e4m3_rate_ / 1e12);
}

void Meter::print_header() const {
    std::printf("%-34s %-26s %10s %8s %6s %8s %6s\n", "operation", "shape", "us", "GB/s", "copy", "TFLOP/s",
                "peak");
}

double Meter::seconds(const std::function<void()>& call) const {
    for (int run = 0; run < kWarm; ++run) call();
    std::vector<float> milliseconds;
    for (int run = 0; run < (tiny_ ? 1 : kRuns); ++run) {
        cuda::Event begin;
        cuda::Event end;
        sweep(stream_, cold_);
        begin.record(stream_);
        call();
        end.record(stream_);
        end.synchronize();
        milliseconds.push_back(end.milliseconds_since(begin));
    }
    std::nth_element(milliseconds.begin(), milliseconds.begin() + milliseconds.size() / 2,
                     milliseconds.end());
    return double{milliseconds[milliseconds.size() / 2]} * 1e-3;
}

double Meter::product_rate(Peak peak) const {
    const std::size_t n = tiny_ ? 32 : 8192;
    const auto a = random_bf16(stream_, n * n);
    const auto b = random_bf16(stream_, n * n);
    const cuda::DeviceBuffer<cuda::BF16> d(n * n);
    const Codes a_codes(stream_, view(a, n, n));
    const Codes b_codes(stream_, view(b, n, n));
    const bool narrow = peak == Peak::E4M3;
    const cuda::Gemm gemm{n,
                          n,
                          n,
                          narrow ? a_codes.operand(false) : cuda::operand(view(a, n, n)),
                          narrow ? b_codes.operand(true) : cuda::operand(view(b, n, n), true),
                          nullptr,
                          0,
                          d.data(),
                          n};
    cuda::Blas blas;
    const double took = seconds([&] { blas.gemm(stream_, gemm); });
    return took > 0 ? 2 * std::pow(static_cast<double>(n), 3) / took : 0;
}

void Meter::measure(const Work& work, const std::function<void()>& call) {
    if (!wants(work.name)) return;
    double took = 0;
    try {
        took = seconds(call);
    } catch (const cuda::GpuError& error) {
        failed_ = true;
        std::printf("%-34s %-26s FAILED: %s\n", work.name.c_str(), work.shape.c_str(), error.what());
        return;
    }
    const auto share = [](double rate, double ceiling) { return ceiling > 0 ? 100 * rate / ceiling : 0.0; };
    const double bytes_rate = took > 0 ? work.bytes / took : 0;
    const double flops_rate = took > 0 ? work.flops / took : 0;
    std::printf("%-34s %-26s %10.1f %8.0f %5.0f%%", work.name.c_str(), work.shape.c_str(), took * 1e6,
                bytes_rate / 1e9, share(bytes_rate, copy_rate_));
    if (work.peak != Peak::None)
        std::printf(" %8.1f %5.0f%%", flops_rate / 1e12,
                    share(flops_rate, work.peak == Peak::BF16 ? bf16_rate_ : e4m3_rate_));
    std::printf("\n");
    std::fflush(stdout);
}

}  // namespace fedllm::bench
