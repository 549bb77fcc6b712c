// Integer products against an oracle that sums the same codes in 64 bits, and against the exact product
// within the bound of the quantisation.
#include "kernels/int8_matmul/op.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/int8_matmul/tile.hpp"
#include "kernels/quantize/op.hpp"
#include "tests/kernels/support.hpp"

namespace fedllm::kernels::testing {
namespace {

struct Shape {
    std::size_t m, k, n;
};
// Below, at and above a tile of 14 x 32 and a depth of 4; more rows than one item; several chunks of scratch;
// several slabs while packing.
const std::vector<Shape> kShapes{{1, 1, 1},     {1, 5, 33},    {14, 64, 32},    {15, 63, 31},
                                 {29, 100, 70}, {230, 72, 40}, {300, 4099, 36}, {3, 20, 2100}};

// A row's codes and scale, as op.hpp says, one number after the other.
struct Codes {
    std::vector<std::int64_t> codes;
    float scale;
};
Codes codes_of(const std::vector<float>& row) {
    float absmax = 0;
    for (const float value : row) absmax = std::max(absmax, std::abs(value));
    const float factor = absmax > 0 ? 127.0f / absmax : 0.0f;
    Codes out{{}, absmax / 127.0f};
    for (const float value : row)
        out.codes.push_back(static_cast<std::int64_t>(std::nearbyint(value * factor)));
    return out;
}

// The weight's codes, from quantize_int8, which has its own tests.
struct WeightCodes {
    explicit WeightCodes(const Grid& w) : codes(w.rows() * w.cols()), scales(w.rows()) {
        ThreadPool pool(1);
        quantize_int8(pool, w.weight(), codes, scales);
        for (float& scale : scales) scale /= 127.0f;
    }
    std::vector<std::int8_t> codes;
    std::vector<float> scales;
};

Grid weight_grid(const Shape& shape) { return Grid::random(shape.n, shape.k, "w", /*padding=*/0); }

// One rounding of the sum, two or three of the scales, one of the addition.
void expect_near(const Grid& got, const Dense& want, const Dense& magnitude, const std::string& what) {
    expect_within(got, want, magnitude, 5 * kUnit, what);
}

TEST(Int8Matmul, SumsCodesExactly) {
    for (const Shape& s : kShapes) {
        const std::string what = std::to_string(s.m) + "x" + std::to_string(s.k) + "x" + std::to_string(s.n);
        const Grid x = Grid::random(s.m, s.k, "x"), dy = Grid::random(s.m, s.n, "dy");
        const Grid w = weight_grid(s);
        const WeightCodes weight(w);
        ThreadPool pool(3);
        const Int8Weight packed = pack_int8(pool, w.weight());
        Grid y = Grid::random(s.m, s.n, "y"), dx = Grid::random(s.m, s.k, "dx");
        Dense y_want = y.dense(), dx_want = dx.dense();
        Dense y_size = y_want, dx_size = dx_want;
        for (double& value : y_size.values) value = std::abs(value);
        for (double& value : dx_size.values) value = std::abs(value);
        for (std::size_t i = 0; i < s.m; ++i) {
            std::vector<float> row(s.k), gradient(s.n);
            for (std::size_t k = 0; k < s.k; ++k) row[k] = x.at(i, k);
            for (std::size_t n = 0; n < s.n; ++n) gradient[n] = dy.at(i, n) * weight.scales[n];
            const Codes a = codes_of(row), b = codes_of(gradient);
            for (std::size_t n = 0; n < s.n; ++n) {
                std::int64_t sum = 0;
                for (std::size_t k = 0; k < s.k; ++k) sum += a.codes[k] * weight.codes[n * s.k + k];
                const double term = static_cast<double>(sum) * a.scale * weight.scales[n];
                y_want(i, n) += term;
                y_size(i, n) += std::abs(term);
            }
            for (std::size_t k = 0; k < s.k; ++k) {
                std::int64_t sum = 0;
                for (std::size_t n = 0; n < s.n; ++n) sum += b.codes[n] * weight.codes[n * s.k + k];
                dx_want(i, k) += static_cast<double>(sum) * b.scale;
                dx_size(i, k) += std::abs(static_cast<double>(sum) * b.scale);
            }
        }
        int8_matmul_forward(pool, x.view(), packed, y.view(), Write::Accumulate);
        int8_matmul_backward_input(pool, dy.view(), packed, dx.view(), Write::Accumulate);
        expect_near(y, y_want, y_size, "forward " + what);
        expect_near(dx, dx_want, dx_size, "backward " + what);
    }
}

// With x = a + e and w = b + f, |e| <= half a step of the row of x and |f| of w:
// |x w - a b| <= |e| |w| + |x| |f| + |e| |f|, summed over the depth.
TEST(Int8Matmul, StaysWithinTheBoundOfItsQuantisation) {
    const Shape s{29, 300, 70};
    const Grid x = Grid::random(s.m, s.k, "x"), dy = Grid::random(s.m, s.n, "dy"), w = weight_grid(s);
    ThreadPool pool(2);
    const Int8Weight packed = pack_int8(pool, w.weight());
    Grid y(s.m, s.n), dx(s.m, s.k);
    int8_matmul_forward(pool, x.view(), packed, y.view());
    int8_matmul_backward_input(pool, dy.view(), packed, dx.view());
    const auto half_step = [](double absmax) { return absmax / 127.0 / 2.0 * (1.0 + 1e-5); };
    double worst = 0, mean = 0;
    for (std::size_t i = 0; i < s.m; ++i) {
        double x_max = 0, dy_max = 0;
        for (std::size_t k = 0; k < s.k; ++k) x_max = std::max<double>(x_max, std::abs(x.at(i, k)));
        for (std::size_t n = 0; n < s.n; ++n) {
            dy_max = std::max<double>(dy_max, std::abs(double{dy.at(i, n)} * packed.scales[n]));
        }
        for (std::size_t n = 0; n < s.n; ++n) {
            double exact = 0, bound = 0;
            const double e = half_step(x_max), f = packed.scales[n] / 2.0 * (1.0 + 1e-5);
            for (std::size_t k = 0; k < s.k; ++k) {
                exact += double{x.at(i, k)} * w.at(n, k);
                bound += e * std::abs(w.at(n, k)) + f * std::abs(x.at(i, k)) + e * f;
            }
            worst = std::max(worst, std::abs(y.at(i, n) - exact) / bound);
            mean += std::abs(y.at(i, n) - exact) / bound / static_cast<double>(s.m * s.n);
        }
        for (std::size_t k = 0; k < s.k; ++k) {
            double exact = 0, bound = 0;
            for (std::size_t n = 0; n < s.n; ++n) {
                const double f = packed.scales[n] / 2.0 * (1.0 + 1e-5);
                exact += double{dy.at(i, n)} * w.at(n, k);
                // dY times the scales is rounded to a half step; the codes of w are at most 127.
                bound += half_step(dy_max) * (std::abs(w.at(n, k)) + f) / packed.scales[n] +
                         f * std::abs(dy.at(i, n));
            }
            worst = std::max(worst, std::abs(dx.at(i, k) - exact) / bound);
        }
    }
    EXPECT_LE(worst, 1.0);
    EXPECT_GT(mean, 1e-4);  // the bound says something
}

TEST(Int8Matmul, BitsDoNotDependOnThreadsOrOtherRows) {
    const Shape s{300, 4099, 36};
    const Grid x = Grid::random(s.m, s.k, "x"), w = weight_grid(s);
    ThreadPool one(1);
    const Int8Weight packed = pack_int8(one, w.weight());
    expect_same_bits(
        [&](ThreadPool& pool) {
            Grid y(s.m, s.n);
            int8_matmul_forward(pool, x.view(), packed, y.view());
            return std::vector<Grid>{y};
        },
        "forward");
    Grid all(s.m, s.n), last(1, s.n);
    int8_matmul_forward(one, x.view(), packed, all.view());
    int8_matmul_forward(one, x.view().slice(s.m - 1, 1), packed, last.view());
    for (std::size_t n = 0; n < s.n; ++n) EXPECT_EQ(all.at(s.m - 1, n), last.at(0, n));
}

TEST(Int8Matmul, TilesAgreeAtTheLongestDepth) {
    ASSERT_TRUE(fits_int8_matmul(1, kInt8DepthMax) && !fits_int8_matmul(kInt8DepthMax + 1, 1));
    const std::size_t fours = kInt8DepthMax / 4;
    for (const int sign : {127, -127}) {
        const std::vector<std::int8_t> x(kInt8TileRows * kInt8DepthMax, static_cast<std::int8_t>(sign));
        const std::vector<std::uint8_t> panel(kInt8DepthMax * kInt8TileCols, 255);
        std::vector<std::int32_t> sums(kInt8TileRows * kInt8TileCols);
        plain_int8_tile()(x.data(), kInt8DepthMax, panel.data(), fours, sums.data());
        EXPECT_EQ(sums.front(), std::int64_t{255} * sign * static_cast<std::int64_t>(kInt8DepthMax));
        if (vnni_tile() == nullptr) continue;
        auto again = sums;
        vnni_tile()(x.data(), kInt8DepthMax, panel.data(), fours, again.data());
        EXPECT_EQ(again, sums);
    }
}

TEST(Int8Matmul, TilesAgreeOnAnyCodes) {
    if (vnni_tile() == nullptr) GTEST_SKIP() << "this processor has no AVX-512 VNNI";
    const std::size_t fours = 37, stride = 192;
    Rng rng(9, "tiles");
    std::vector<std::int8_t> x(kInt8TileRows * stride);
    std::vector<std::uint8_t> panel(fours * 4 * kInt8TileCols);
    for (auto& code : x) code = static_cast<std::int8_t>(rng.next_u64());
    for (auto& code : panel) code = static_cast<std::uint8_t>(rng.next_u64());
    std::vector<std::int32_t> plain(kInt8TileRows * kInt8TileCols), fast(plain.size());
    plain_int8_tile()(x.data(), stride, panel.data(), fours, plain.data());
    vnni_tile()(x.data(), stride, panel.data(), fours, fast.data());
    EXPECT_EQ(plain, fast);
}

TEST(Int8Matmul, WhatIsNotFiniteStaysSoInItsRowAlone) {
    ThreadPool pool(1);
    const Grid w = Grid::random(40, 20, "w", 0);
    const Int8Weight packed = pack_int8(pool, w.weight());
    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        Grid x = Grid::random(3, 20, "x"), y(3, 40);
        x.at(1, 7) = bad;
        int8_matmul_forward(pool, x.view(), packed, y.view());
        for (std::size_t n = 0; n < 40; ++n) {
            EXPECT_TRUE(std::isfinite(y.at(0, n)) && !std::isfinite(y.at(1, n)) && std::isfinite(y.at(2, n)));
        }
    }
    Grid zeros(2, 20), y = Grid::random(2, 40, "y");
    int8_matmul_forward(pool, zeros.view(), packed, y.view());
    for (std::size_t n = 0; n < 40; ++n) EXPECT_EQ(y.at(0, n), 0.0f);
}

// A base that was quantised to int8 keeps its codes.
TEST(Int8Matmul, PacksTheCodesOfAnInt8Base) {
    ThreadPool pool(1);
    const Grid w = Grid::random(33, 50, "w", 0);
    const WeightCodes weight(w);
    const Int8Weight direct = pack_int8(pool, w.weight());
    const Int8Weight again =
        pack_int8(pool, {weight.codes.data(), WeightType::Int8, 33, 50, weight.scales.data()});
    EXPECT_EQ(direct.forward.codes, again.forward.codes);
    EXPECT_EQ(direct.backward.codes, again.backward.codes);
}

TEST(Int8Matmul, PackedForTheForwardProductAloneItIsTheSame) {
    ThreadPool pool(2);
    const Grid w = Grid::random(1100, 21, "w", 0);
    const Int8Weight both = pack_int8(pool, w.weight());
    const Int8Weight forward = pack_int8(pool, w.weight(), Int8Use::Forward);
    EXPECT_EQ(forward.forward.codes, both.forward.codes);
    EXPECT_EQ(forward.scales, both.scales);
    EXPECT_TRUE(both.has_backward());
    EXPECT_FALSE(forward.has_backward());
    const auto bytes = [](const Int8Weight& packed) {
        return packed.forward.codes.size() + packed.backward.codes.size() + 4 * packed.scales.size();
    };
    EXPECT_EQ(bytes(both), int8_weight_bytes(1100, 21));
    EXPECT_EQ(bytes(forward), int8_weight_bytes(1100, 21, Int8Use::Forward));
    EXPECT_TRUE(fits_int8_matmul(kInt8DepthMax + 1, 64, Int8Use::Forward));
    EXPECT_FALSE(fits_int8_matmul(kInt8DepthMax + 1, 64));
}

}  // namespace
}  // namespace fedllm::kernels::testing
