#include "kernels/gelu/op_cuda.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/cuda/harness.hpp"
#include "tests/kernels/reference.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

constexpr double kRound = 0x1p-8;  // of bf16, relative
constexpr double kTiny = 1e-35;    // where the GPU's quick division flushes to zero

double inner_of(double x) { return reference::gelu_slope() * 2 * (x + 0.044715 * x * x * x); }

// Of sigmoid(u) in f32, relative. u has four roundings, each |u| units of exp(-u); CUDA's guide gives
// 2 + 1.173 |u| units for __expf and 2 for __fdividef.
double sigmoid_error(double u) {
    return (1 - reference::sigmoid(u)) * (2 + 6 * std::fabs(u)) * 0x1p-23 + 4 * 0x1p-23;
}

// 0.5 (1 + tanh(u)) of the oracle is 0 from u = -19 on, and carries no relative error before.
double oracle_error(double x) { return std::fabs(x) * 0x1p-52; }

void forward_case(Harness& harness, std::size_t rows, std::size_t cols, double scale) {
    harness.begin("gelu_forward " + std::to_string(rows) + "x" + std::to_string(cols) + " to " +
                  std::to_string(scale));
    const Stream stream;
    const TestMatrix x = random_matrix(stream, rows, cols, 1, scale, 16);
    const TestMatrix out = empty_matrix(stream, rows, cols, 8);
    gelu_forward(stream, x.view(), out.view());
    std::vector<double> want(rows * cols);
    for (std::size_t i = 0; i < want.size(); ++i) want[i] = reference::gelu(x.values[i]);
    harness.close(
        values_of(harness, stream, out), want,
        [&](std::size_t i) {
            return std::fabs(want[i]) * (kRound + sigmoid_error(inner_of(x.values[i]))) +
                   oracle_error(x.values[i]) + kTiny;
        },
        "out");
}

void backward_case(Harness& harness, std::size_t rows, std::size_t cols, double scale) {
    harness.begin("gelu_backward " + std::to_string(rows) + "x" + std::to_string(cols) + " to " +
                  std::to_string(scale));
    const Stream stream;
    const TestMatrix x = random_matrix(stream, rows, cols, 1, scale, 16);
    const TestMatrix dout = random_matrix(stream, rows, cols, 2, 3.0, 8);
    gelu_backward(stream, dout.view(), x.view());
    std::vector<double> want(rows * cols);
    for (std::size_t i = 0; i < want.size(); ++i)
        want[i] = dout.values[i] * reference::gelu_derivative(x.values[i]);
    harness.close(
        values_of(harness, stream, x), want,
        [&](std::size_t i) {  // s + x s (1 - s) 2 u', and |x u'| <= 3 |u|: no more than 1 + 6 |u| errors of s
            const double u = inner_of(x.values[i]), errors = 1 + 6 * std::fabs(u);
            const double slope = reference::sigmoid(u) * sigmoid_error(u) * errors + oracle_error(errors);
            return std::fabs(want[i]) * kRound + std::fabs(dout.values[i]) * slope + kTiny;
        },
        "dx");
}

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    return run([](Harness& harness) {
        for (const auto& shape : fedllm::kernels::cases::kRows) {
            if (shape.use != fedllm::kernels::cases::Use::TestOnly) continue;
            for (const double scale : {4.0, 60.0}) {
                forward_case(harness, shape.rows, shape.cols, scale);
                backward_case(harness, shape.rows, shape.cols, scale);
            }
        }
    });
}
