#include "kernels/rms_norm/op_cuda.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/cuda/harness.hpp"
#include "tests/kernels/cuda/norm_bounds.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

constexpr float kEpsilon = 1e-5f;

struct Shape {
    std::size_t rows, cols, groups = 1;
};
std::string describe(const char* what, const Shape& shape) {
    return std::string("rms_norm ") + what + " " + std::to_string(shape.rows) + "x" +
           std::to_string(shape.cols) + "/" + std::to_string(shape.groups);
}

// The sum that the kernel leaves in x: to the bit.
std::vector<double> residual_sum(const TestMatrix& x, const TestMatrix& add) {
    std::vector<double> sum(x.values.size());
    for (std::size_t i = 0; i < sum.size(); ++i)
        sum[i] = widen(narrow(static_cast<float>(x.values[i]) + static_cast<float>(add.values[i])));
    return sum;
}

enum class Residual { None, Added };
enum class Place { Elsewhere, Same };  // of y, x or dx, dy

void forward_case(Harness& harness, const Shape& shape, Residual residual, Place place) {
    harness.begin(describe("forward", shape));
    const auto& [rows, cols, groups] = shape;
    const std::size_t size = cols / groups;
    const Stream stream;
    const TestMatrix x = random_matrix(stream, rows, cols, 1, 3.0, 8);
    const TestMatrix add = random_matrix(stream, rows, cols, 2, 1.0, 0);
    const TestMatrix other = empty_matrix(stream, rows, cols, 16);
    const TestMatrix& y = place == Place::Same ? x : other;
    const std::vector<float> weight = random_vector(size, 3);
    const auto device_weight = vector_at(stream, rows % 2, weight);
    const auto rstd = poisoned(stream, rows * groups);
    rms_norm_forward(stream, {device_weight.data(), kEpsilon, groups}, x.view(),
                     residual == Residual::Added ? ConstDeviceMatrix(add.view()) : ConstDeviceMatrix(),
                     y.view(), rstd.data());
    const auto sum =
        dense(rows * groups, size, residual == Residual::Added ? residual_sum(x, add) : x.values);
    const auto want = reference::rms_norm(sum, doubles(weight), kEpsilon);
    harness.close(
        values_of(harness, stream, y), want.values,
        [&](std::size_t i) { return std::fabs(want.values[i]) * (kHalfUlpBf16 + row_error(size)); }, "y");
    if (place == Place::Elsewhere)
        harness.close(
            values_of(harness, stream, x), sum.values, [](std::size_t) { return 0.0; }, "x");
    std::vector<double> want_rstd(rows * groups);
    for (std::size_t m = 0; m < want_rstd.size(); ++m) want_rstd[m] = reference::rstd_of(sum, m, kEpsilon);
    harness.close(
        to_host(stream, rstd.data(), rstd.size()), want_rstd,
        [&](std::size_t i) { return want_rstd[i] * row_error(size); }, "rstd");
}

// dweight, from 1 upwards, and summed twice to see the same bits.
void check_weight_gradient(Harness& harness, const Shape& shape, const std::vector<std::vector<float>>& got,
                           const reference::NormGradients& want) {
    std::vector<double> sums = want.dweight;
    for (double& sum : sums) sum += 1;
    harness.close(
        got[0], sums,
        [&](std::size_t i) {
            return (1 + want.dweight_magnitude[i]) *
                   (column_error(shape.rows, shape.groups) + row_error(shape.cols / shape.groups));
        },
        "dweight");
    harness.check(got[0] == got[1], "dweight has other bits the second time");
}

void backward_case(Harness& harness, const Shape& shape, Write write, Place place) {
    harness.begin(describe(write == Write::Accumulate ? "backward +=" : "backward", shape));
    const auto& [rows, cols, groups] = shape;
    const std::size_t size = cols / groups;
    const Stream stream;
    const TestMatrix dy = random_matrix(stream, rows, cols, 1, 1.0, 8);
    const TestMatrix x = random_matrix(stream, rows, cols, 2, 3.0, 16);
    const TestMatrix before = random_matrix(stream, rows, cols, 4, 2.0, 0);
    const TestMatrix& dx = place == Place::Same ? dy : before;
    const std::vector<float> weight = random_vector(size, 3);
    const auto parts = dense(rows * groups, size, x.values);
    const auto want =
        reference::rms_norm_backward(dense(rows * groups, size, dy.values), parts, doubles(weight), kEpsilon);
    std::vector<float> rstd(rows * groups);
    for (std::size_t m = 0; m < rstd.size(); ++m)
        rstd[m] = static_cast<float>(reference::rstd_of(parts, m, kEpsilon));
    const auto device_weight = vector_at(stream, rows % 2, weight);
    const auto device_rstd = to_device<float>(stream, rstd);
    const auto scratch = poisoned(stream, rms_norm_scratch(rows, cols, groups));
    const TestMatrix scrap = empty_matrix(stream, rows, cols);
    std::vector<std::vector<float>> dweight;
    for (const TestMatrix* to : {&scrap, &dx}) {
        const auto sums = vector_at(stream, rows % 2, std::vector<float>(size, 1.0f));
        rms_norm_backward(stream, {device_weight.data(), kEpsilon, groups}, dy.view(), x.view(),
                          device_rstd.data(), to->view(), to == &dx ? write : Write::Overwrite, sums.data(),
                          scratch.data());
        dweight.push_back(to_host(stream, sums.data(), size));
    }
    check_weight_gradient(harness, shape, dweight, want);
    std::vector<double> sums = want.dx.values;
    for (std::size_t i = 0; i < sums.size(); ++i)
        if (write == Write::Accumulate) sums[i] += before.values[i];
    harness.close(
        values_of(harness, stream, dx), sums,
        [&](std::size_t i) {
            return std::fabs(sums[i]) * (kHalfUlpBf16 + kHalfUlpF32) +
                   want.dx_magnitude.values[i] * row_error(size);
        },
        "dx");
}

// A frozen weight needs no scratch.
void frozen_case(Harness& harness) {
    harness.begin("rms_norm backward with a frozen weight");
    const Stream stream;
    const TestMatrix dy = random_matrix(stream, 3, 40, 1), x = random_matrix(stream, 3, 40, 2);
    const TestMatrix dx = empty_matrix(stream, 3, 40);
    const auto weight = to_device<float>(stream, std::vector<float>(40, 1.0f));
    const auto rstd = to_device<float>(stream, std::vector<float>(3, 1.0f));
    rms_norm_backward(stream, {weight.data(), kEpsilon, 1}, dy.view(), x.view(), rstd.data(), dx.view(),
                      Write::Overwrite, nullptr, nullptr);
    bool finite = true;
    for (const float value : values_of(harness, stream, dx)) finite = finite && std::isfinite(value);
    harness.check(finite, "dx was not written");
}

// Every team: 4 to 32 lanes, a warp with more of the row, blocks of two and more warps; parts that do not
// start on 16 bytes; rows that are not kept; more rows than one strip's least.
constexpr Shape kShapes[] = {{33, 60},  {35, 64},   {9, 128},    {6, 250},    {5, 500},   {3, 1000},
                             {3, 1040}, {2, 2055},  {5, 192, 3}, {7, 256, 2}, {4, 36, 3}, {3, 49, 7},
                             {2, 8192}, {1, 33000}, {2100, 17},  {70, 2, 2}};

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    using fedllm::kernels::Write;
    return run([](Harness& harness) {
        std::vector<Shape> shapes(std::begin(kShapes), std::end(kShapes));
        for (const auto& [rows, cols, use] : fedllm::kernels::cases::kRows) shapes.push_back({rows, cols});
        for (const Shape& shape : shapes) {
            forward_case(harness, shape, Residual::None, Place::Elsewhere);
            forward_case(harness, shape, Residual::Added, Place::Elsewhere);
            backward_case(harness, shape, Write::Accumulate, Place::Elsewhere);
            backward_case(harness, shape, Write::Overwrite, Place::Same);
        }
        forward_case(harness, {9, 192, 3}, Residual::Added, Place::Same);
        forward_case(harness, {3, 1030}, Residual::None, Place::Same);
        backward_case(harness, {9, 192, 3}, Write::Overwrite, Place::Elsewhere);
        frozen_case(harness);
    });
}
