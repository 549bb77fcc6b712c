#include "kernels/rms_norm/op_cuda.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/cuda/harness.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

constexpr double kHalfUlp = 1.0 / 256;  // of bf16, relative

void forward_case(Harness& harness, std::size_t rows, std::size_t cols, std::size_t groups) {
    harness.begin("rms_norm_forward " + std::to_string(rows) + "x" + std::to_string(cols) + "/" +
                  std::to_string(groups));
    const Stream stream;
    const TestMatrix x = random_matrix(stream, rows, cols, 1, 3.0, 8);
    const TestMatrix y = empty_matrix(stream, rows, cols, 16);
    const std::size_t size = cols / groups;
    std::vector<float> weight(size);
    for (std::size_t c = 0; c < size; ++c) weight[c] = 0.5f + static_cast<float>(c % 7);
    const auto device_weight = to_device<float>(stream, weight);
    DeviceBuffer<float> rstd(rows * groups);
    rms_norm_forward(stream, {device_weight.data(), 1e-5f, groups}, x.view(), {}, y.view(), rstd.data());
    std::vector<double> want(rows * cols);
    for (std::size_t part = 0; part < rows * groups; ++part) {
        double sum = 0;
        for (std::size_t c = 0; c < size; ++c) sum += x.values[part * size + c] * x.values[part * size + c];
        const double r = 1 / std::sqrt(sum / static_cast<double>(size) + 1e-5);
        for (std::size_t c = 0; c < size; ++c)
            want[part * size + c] = x.values[part * size + c] * r * weight[c];
    }
    harness.close(
        values_of(harness, stream, y), want,
        [&](std::size_t i) { return std::fabs(want[i]) * (kHalfUlp + 1e-5); }, "y");
}

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    return run([](Harness& harness) {
        for (const auto& shape : fedllm::kernels::cases::kRows)
            forward_case(harness, shape.rows, shape.cols, 1);
        forward_case(harness, 5, 192, 3);
    });
}
