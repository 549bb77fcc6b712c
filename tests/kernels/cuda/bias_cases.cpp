#include "kernels/matmul/op_cuda.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/cuda/harness.hpp"
#include "tests/kernels/cuda/norm_bounds.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

void forward_case(Harness& harness, std::size_t rows, std::size_t cols) {
    harness.begin("add_bias " + std::to_string(rows) + "x" + std::to_string(cols));
    const Stream stream;
    const TestMatrix y = random_matrix(stream, rows, cols, 1, 3.0, 8);
    const std::vector<float> bias = random_vector(cols, 2);
    const auto device_bias = to_device<float>(stream, bias);
    add_bias(stream, device_bias.data(), y.view());
    std::vector<double> want(rows * cols);  // to the bit
    for (std::size_t i = 0; i < want.size(); ++i)
        want[i] = widen(narrow(static_cast<float>(y.values[i]) + bias[i % cols]));
    harness.close(
        values_of(harness, stream, y), want, [](std::size_t) { return 0.0; }, "y");
}

void backward_case(Harness& harness, std::size_t rows, std::size_t cols) {
    harness.begin("add_bias_backward " + std::to_string(rows) + "x" + std::to_string(cols));
    const Stream stream;
    const TestMatrix dy = random_matrix(stream, rows, cols, 1, 1.0, 8);
    const auto scratch = poisoned(stream, bias_scratch(rows, cols));
    std::vector<double> want(cols, 1.0), magnitude(cols, 1.0);
    for (std::size_t i = 0; i < dy.values.size(); ++i) {
        want[i % cols] += dy.values[i];
        magnitude[i % cols] += std::fabs(dy.values[i]);
    }
    std::vector<std::vector<float>> got;
    for (unsigned turn = 0; turn < 2; ++turn) {
        const auto dbias = to_device<float>(stream, std::vector<float>(cols, 1.0f));
        add_bias_backward(stream, dy.view(), dbias.data(), scratch.data());
        got.push_back(to_host(stream, dbias.data(), cols));
    }
    harness.close(
        got[0], want, [&](std::size_t c) { return magnitude[c] * column_error(rows, 1); }, "dbias");
    harness.check(got[0] == got[1], "dbias has other bits the second time");
}

struct Shape {
    std::size_t rows, cols;
};
// Rows around a warp's and a block's, one and two blocks of columns, more rows than one strip's least.
constexpr Shape kShapes[] = {{4, 8}, {31, 256}, {33, 257}, {65, 520}, {2100, 17}, {129, 1}};

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    return run([](Harness& harness) {
        std::vector<Shape> shapes(std::begin(kShapes), std::end(kShapes));
        for (const auto& [rows, cols, use] : fedllm::kernels::cases::kRows) shapes.push_back({rows, cols});
        for (const auto& [rows, cols] : shapes) {
            forward_case(harness, rows, cols);
            backward_case(harness, rows, cols);
        }
    });
}
