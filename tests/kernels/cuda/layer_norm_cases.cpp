#include "kernels/layer_norm/op_cuda.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/cuda/harness.hpp"
#include "tests/kernels/cuda/norm_bounds.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

constexpr float kEpsilon = 1e-5f;
// x - mean is at most twice the largest |x|, and is in a gradient twice.
constexpr double kCentred = 4;

struct Shape {
    std::size_t rows, cols;
};
std::string describe(const char* what, const Shape& shape) {
    return std::string("layer_norm ") + what + " " + std::to_string(shape.rows) + "x" +
           std::to_string(shape.cols);
}

// All values moved by `offset`, as far as bf16 can.
TestMatrix shifted_matrix(const Stream& stream, const Shape& shape, double offset) {
    TestMatrix made = random_matrix(stream, shape.rows, shape.cols, 2, 3.0, 8);
    std::vector<BF16> host = to_host(stream, made.device.data(), shape.rows * made.pitch);
    for (std::size_t i = 0; i < made.values.size(); ++i) {
        const BF16 moved = narrow(static_cast<float>(made.values[i] + offset));
        made.values[i] = widen(moved);
        host[i / shape.cols * made.pitch + i % shape.cols] = moved;
    }
    made.device = to_device<BF16>(stream, host);
    return made;
}

struct Moments {
    std::vector<double> mean, rstd, spread;  // the largest |x|
};
Moments moments_of(const reference::Dense& x) {
    Moments all;
    for (std::size_t m = 0; m < x.rows; ++m) {
        const reference::RowMoments row = reference::moments_of(x, m, kEpsilon);
        double spread = 0;
        for (std::size_t c = 0; c < x.cols; ++c) spread = std::max(spread, std::fabs(x(m, c)));
        all.mean.push_back(row.mean);
        all.rstd.push_back(row.rstd);
        all.spread.push_back(spread);
    }
    return all;
}

enum class Place { Elsewhere, Same };  // of y, x or dx, dy

void forward_case(Harness& harness, const Shape& shape, double offset, Place place) {
    harness.begin(describe("forward", shape));
    const auto& [rows, cols] = shape;
    const Stream stream;
    const TestMatrix x = shifted_matrix(stream, shape, offset);
    const TestMatrix other = empty_matrix(stream, rows, cols, 16);
    const TestMatrix& y = place == Place::Same ? x : other;
    const std::vector<float> weight = random_vector(cols, 3), bias = random_vector(cols, 4);
    const auto device_weight = vector_at(stream, rows % 2, weight);
    const auto device_bias = vector_at(stream, rows % 2, bias);
    const auto rstd = poisoned(stream, rows), mean = poisoned(stream, rows);
    layer_norm_forward(stream, x.view(), device_weight.data(), device_bias.data(), kEpsilon, y.view(),
                       rstd.data(), mean.data());
    const auto values = dense(rows, cols, x.values);
    const auto want = reference::layer_norm(values, doubles(weight), doubles(bias), kEpsilon);
    const Moments moments = moments_of(values);
    const double error = row_error(cols);
    harness.close(
        to_host(stream, mean.data(), rows), moments.mean,
        [&](std::size_t m) { return moments.spread[m] * error; }, "mean");
    // A mean that is wrong by d adds d^2 to the variance.
    auto rstd_error = [&](std::size_t m) {
        const double of_mean = moments.spread[m] * moments.rstd[m] * error;
        return error + of_mean * of_mean;
    };
    harness.close(
        to_host(stream, rstd.data(), rows), moments.rstd,
        [&](std::size_t m) { return moments.rstd[m] * rstd_error(m); }, "rstd");
    harness.close(
        values_of(harness, stream, y), want.values,
        [&](std::size_t i) {
            const std::size_t m = i / cols;
            const double normed = kCentred * moments.spread[m] * moments.rstd[m] * double{weight[i % cols]};
            return std::fabs(want.values[i]) * (kHalfUlpBf16 + kHalfUlpF32) +
                   normed * (error + rstd_error(m));
        },
        "y");
}

// From 1 upwards, and summed twice to see the same bits.
void check_gradient(Harness& harness, const Shape& shape, const std::vector<std::vector<float>>& got,
                    std::vector<double> want, const std::vector<double>& magnitude, const char* what) {
    for (double& sum : want) sum += 1;
    const double error = column_error(shape.rows, 1) + row_error(0);
    harness.close(
        got[0], want, [&](std::size_t i) { return (1 + kCentred * magnitude[i]) * error; }, what);
    harness.check(got[0] == got[1], std::string(what) + " has other bits the second time");
}

void backward_case(Harness& harness, const Shape& shape, double offset, Write write, Place place) {
    harness.begin(describe(write == Write::Accumulate ? "backward +=" : "backward", shape));
    const auto& [rows, cols] = shape;
    const Stream stream;
    const TestMatrix dy = random_matrix(stream, rows, cols, 1, 1.0, 8);
    const TestMatrix x = shifted_matrix(stream, shape, offset);
    const TestMatrix before = random_matrix(stream, rows, cols, 4, 2.0, 0);
    const TestMatrix& dx = place == Place::Same ? dy : before;
    const std::vector<float> weight = random_vector(cols, 3);
    const auto values = dense(rows, cols, x.values);
    const auto want =
        reference::layer_norm_backward(dense(rows, cols, dy.values), values, doubles(weight), kEpsilon);
    const Moments moments = moments_of(values);
    const std::vector<float> rstd(moments.rstd.begin(), moments.rstd.end());
    const std::vector<float> mean(moments.mean.begin(), moments.mean.end());
    const auto device_weight = vector_at(stream, rows % 2, weight);
    const auto device_rstd = to_device<float>(stream, rstd), device_mean = to_device<float>(stream, mean);
    const auto scratch = poisoned(stream, layer_norm_scratch(rows, cols));
    const TestMatrix scrap = empty_matrix(stream, rows, cols);
    std::vector<std::vector<float>> dweight, dbias;
    for (const TestMatrix* to : {&scrap, &dx}) {
        const auto weight_sums = vector_at(stream, rows % 2, std::vector<float>(cols, 1.0f));
        const auto bias_sums = vector_at(stream, rows % 2, std::vector<float>(cols, 1.0f));
        layer_norm_backward(stream, dy.view(), x.view(), device_weight.data(), device_rstd.data(),
                            device_mean.data(), to->view(), to == &dx ? write : Write::Overwrite,
                            weight_sums.data(), bias_sums.data(), scratch.data());
        dweight.push_back(to_host(stream, weight_sums.data(), cols));
        dbias.push_back(to_host(stream, bias_sums.data(), cols));
    }
    check_gradient(harness, shape, dweight, want.dweight, want.dweight_magnitude, "dweight");
    check_gradient(harness, shape, dbias, want.dbias, want.dbias_magnitude, "dbias");
    std::vector<double> sums = want.dx.values;
    for (std::size_t i = 0; i < sums.size(); ++i)
        if (write == Write::Accumulate) sums[i] += before.values[i];
    harness.close(
        values_of(harness, stream, dx), sums,
        [&](std::size_t i) {
            return std::fabs(sums[i]) * (kHalfUlpBf16 + kHalfUlpF32) +
                   kCentred * want.dx_magnitude.values[i] * row_error(cols);
        },
        "dx");
}

// Frozen parameters need no scratch, and one may be frozen without the other.
void frozen_case(Harness& harness, bool weight_frozen, bool bias_frozen) {
    harness.begin("layer_norm backward with frozen parameters");
    constexpr std::size_t kCols = 40;
    const Stream stream;
    const TestMatrix dy = random_matrix(stream, 3, kCols, 1), x = random_matrix(stream, 3, kCols, 2);
    const TestMatrix dx = empty_matrix(stream, 3, kCols);
    const auto ones = to_device<float>(stream, std::vector<float>(kCols, 1.0f));
    const auto dweight = to_device<float>(stream, std::vector<float>(kCols, 1.0f));
    const auto dbias = to_device<float>(stream, std::vector<float>(kCols, 1.0f));
    const auto scratch = poisoned(stream, layer_norm_scratch(3, kCols));
    const bool any = !weight_frozen || !bias_frozen;
    layer_norm_backward(stream, dy.view(), x.view(), ones.data(), ones.data(), ones.data(), dx.view(),
                        Write::Overwrite, weight_frozen ? nullptr : dweight.data(),
                        bias_frozen ? nullptr : dbias.data(), any ? scratch.data() : nullptr);
    bool finite = true;
    for (const float value : values_of(harness, stream, dx)) finite = finite && std::isfinite(value);
    harness.check(finite, "dx was not written");
    double sum = 0;
    for (std::size_t m = 0; m < 3; ++m) sum += dy.values[m * kCols];
    harness.check((to_host(stream, dweight.data(), 1)[0] == 1.0f) == weight_frozen, "dweight");
    const double got = double{to_host(stream, dbias.data(), 1)[0]} - 1;
    harness.check(std::fabs(got - (bias_frozen ? 0 : sum)) < 1e-6, "dbias");
}

// Every team: 4 to 32 lanes, a warp with more of the row, blocks of two and more warps; rows that are not
// kept; more rows than one strip's least.
constexpr Shape kShapes[] = {{33, 60},  {35, 64},  {9, 128},  {6, 250},   {5, 500},  {3, 1000},
                             {3, 1040}, {2, 2055}, {2, 8192}, {1, 33000}, {2100, 17}};

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    using fedllm::kernels::Write;
    return run([](Harness& harness) {
        std::vector<Shape> shapes(std::begin(kShapes), std::end(kShapes));
        for (const auto& [rows, cols, use] : fedllm::kernels::cases::kRows) shapes.push_back({rows, cols});
        for (const Shape& shape : shapes) {
            forward_case(harness, shape, 0.5, Place::Elsewhere);
            backward_case(harness, shape, 0.5, Write::Accumulate, Place::Elsewhere);
            backward_case(harness, shape, 0.5, Write::Overwrite, Place::Same);
        }
        forward_case(harness, {9, 192}, 60.0, Place::Same);  // a mean 30 times the deviation
        forward_case(harness, {3, 1030}, 60.0, Place::Elsewhere);
        backward_case(harness, {9, 192}, 60.0, Write::Overwrite, Place::Elsewhere);
        for (const bool weight_frozen : {false, true})
            for (const bool bias_frozen : {false, true}) frozen_case(harness, weight_frozen, bias_frozen);
    });
}
