// LayerNorm and GELU: what GPT-2 has in place of RMSNorm and SwiGLU.
#include "kernels/layer_norm/op.hpp"

#include <gtest/gtest.h>

#include "kernels/gelu/op.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/support.hpp"

namespace fedllm::kernels {
namespace {

using namespace testing;
namespace ref = reference;

constexpr float kEpsilon = 1e-5f;

struct Inputs {
    explicit Inputs(const cases::Rows& c)
        : x(Grid::random(c.rows, c.cols, "x")),
          dy(Grid::random(c.rows, c.cols, "dy")),
          weight(Grid::random(1, c.cols, "weight", 0)),
          bias(Grid::random(1, c.cols, "bias", 0)) {
        for (std::size_t i = 0; i < c.cols; ++i) {
            x.at(0, i) *= 1e-3f;                            // below epsilon: it must take part
            if (c.rows > 2) x.at(2, i) = x.at(2, i) + 100;  // a mean far from 0
        }
    }
    Grid x, dy, weight, bias;
};

// y, rstd, mean, dx, dweight, dbias
std::vector<Grid> run_norm(ThreadPool& pool, const Inputs& in, Write write) {
    const std::size_t rows = in.x.rows(), cols = in.x.cols();
    std::vector<Grid> out{Grid(rows, cols), Grid(1, rows, 0), Grid(1, rows, 0),
                          Grid(rows, cols), Grid(1, cols, 0), Grid(1, cols, 0)};
    out[3].fill(write == Write::Accumulate ? 2.0f : NAN);
    const float* weight = in.weight.storage().data();
    float* rstd = out[1].storage().data();
    float* mean = out[2].storage().data();
    layer_norm_forward(pool, in.x.view(), weight, in.bias.storage().data(), kEpsilon, out[0].view(), rstd,
                       mean);
    layer_norm_backward(pool, in.dy.view(), in.x.view(), weight, rstd, mean, out[3].view(), write,
                        out[4].storage().data(), out[5].storage().data());
    return out;
}

// x minus its mean is as wrong as the larger of the two, scaled by rstd: that is y's magnitude.
Dense magnitude_of(const Dense& x, const std::vector<double>& weight, const std::vector<double>& bias) {
    Dense out(x.rows, x.cols);
    for (std::size_t m = 0; m < x.rows; ++m) {
        const ref::RowMoments row = ref::moments_of(x, m, double{kEpsilon});
        double spread = std::abs(row.mean);
        for (std::size_t c = 0; c < x.cols; ++c) spread = std::max(spread, std::abs(x(m, c)));
        for (std::size_t c = 0; c < x.cols; ++c) {
            out(m, c) = spread * row.rstd * std::abs(weight[c]) + std::abs(bias[c]);
        }
    }
    return out;
}

TEST(LayerNorm, EqualsOracle) {
    for (const auto& c : cases::kRows) {
        const Inputs in(c);
        ThreadPool pool(2);
        const Dense x = in.x.dense();
        const std::vector<double> w = in.weight.dense().values, b = in.bias.dense().values;
        auto want = ref::layer_norm_backward(in.dy.dense(), x, w, double{kEpsilon});
        for (const Write write : {Write::Overwrite, Write::Accumulate}) {
            const std::vector<Grid> got = run_norm(pool, in, write);
            expect_within(got[0], ref::layer_norm(x, w, b, double{kEpsilon}), magnitude_of(x, w, b),
                          bound_of(c.cols), "y");
            if (write == Write::Accumulate) {
                for (double& value : want.dx.values) value += 2.0;
                for (double& value : want.dx_magnitude.values) value += 2.0;
            }
            expect_within(got[3], want.dx, want.dx_magnitude, 2.0 * bound_of(c.cols), "dx");
            expect_within(got[4], row_of(want.dweight), row_of(want.dweight_magnitude),
                          bound_of(c.rows) + bound_of(c.cols), "dweight");
            expect_within(got[5], row_of(want.dbias), row_of(want.dbias_magnitude), bound_of(c.rows),
                          "dbias");
        }
    }
}

TEST(LayerNorm, InPlaceAndWithoutParameterGradients) {
    for (const auto& c : cases::kRows) {
        const Inputs in(c);
        ThreadPool pool(2);
        const std::vector<Grid> apart = run_norm(pool, in, Write::Overwrite);
        Grid dx = in.dy;
        layer_norm_backward(pool, dx.view(), in.x.view(), in.weight.storage().data(),
                            apart[1].storage().data(), apart[2].storage().data(), dx.view(), Write::Overwrite,
                            nullptr, nullptr);
        EXPECT_EQ(dx.storage(), apart[3].storage());
    }
}

TEST(LayerNorm, BitsDoNotDependOnThreads) {
    for (const auto& c : cases::kRows) {
        const Inputs in(c);
        expect_same_bits([&](ThreadPool& pool) { return run_norm(pool, in, Write::Overwrite); },
                         "layer_norm");
    }
}

TEST(LayerNormOracle, GradientsAreFiniteDifferences) {
    const Dense x = Grid::random(2, 5, "x").dense(), dy = Grid::random(2, 5, "dy").dense();
    const Dense w = Grid::random(1, 5, "w").dense(), b = Grid::random(1, 5, "b").dense();
    const auto g = ref::layer_norm_backward(dy, x, w.values, 1e-5);
    const auto total = [&](const Dense& at, const Dense& weight, const Dense& bias) {
        return weighted_sum(ref::layer_norm(at, weight.values, bias.values, 1e-5), dy);
    };
    expect_gradient([&](const Dense& at) { return total(at, w, b); }, x, g.dx, "dx");
    expect_gradient([&](const Dense& at) { return total(x, at, b); }, w, row_of(g.dweight), "dweight");
    expect_gradient([&](const Dense& at) { return total(x, w, at); }, b, row_of(g.dbias), "dbias");
}

TEST(Gelu, EqualsOracleAlsoInPlaceAndFarOut) {
    for (const auto& c : cases::kRows) {
        ThreadPool pool(2);
        Grid x = Grid::random(c.rows, c.cols, "x");
        const Grid dout = Grid::random(c.rows, c.cols, "dout");
        if (c.cols > 4) x.at(0, 0) = 200.0f, x.at(0, 1) = -200.0f, x.at(0, 2) = 4.0f, x.at(0, 3) = -4.0f;
        const Dense at = x.dense(), douts = dout.dense();
        Dense y(c.rows, c.cols), y_magnitude = y, dx = y, dx_magnitude = y;
        for (std::size_t i = 0; i < y.values.size(); ++i) {
            const double v = at.values[i], d = douts.values[i];
            // sigmoid(2u) has an error of |2u| units where it is small; its complement one of a unit.
            const double two_u = 2.0 * ref::gelu_slope() * (v + 0.044715 * v * v * v);
            const double s = ref::sigmoid(two_u), blur = s * (1.0 + std::abs(two_u) * (1.0 - s));
            y.values[i] = ref::gelu(v);
            y_magnitude.values[i] = std::abs(v) * blur;
            dx.values[i] = d * ref::gelu_derivative(v);
            dx_magnitude.values[i] =
                std::abs(d) * (blur + blur * 2.0 * (std::abs(v) + 0.134145 * std::abs(v * v * v)));
        }
        Grid out(c.rows, c.cols);
        expect_same_bits(
            [&](ThreadPool& threads) {
                gelu_forward(threads, x.view(), out.view());
                return std::vector<Grid>{out};
            },
            "gelu");
        expect_within(out, y, y_magnitude, 12.0 * kUnit, "out");
        gelu_backward(pool, dout.view(), x.view(), x.view());
        expect_within(x, dx, dx_magnitude, 12.0 * kUnit, "dx");
    }
}

TEST(GeluOracle, GradientIsAFiniteDifference) {
    const Dense x = Grid::random(1, 7, "x").dense();
    Dense dx(1, 7);
    for (std::size_t i = 0; i < 7; ++i) dx.values[i] = ref::gelu_derivative(x.values[i]);
    expect_gradient(
        [](const Dense& at) {
            double sum = 0.0;
            for (const double value : at.values) sum += ref::gelu(value);
            return sum;
        },
        x, dx, "dx");
}

}  // namespace
}  // namespace fedllm::kernels
