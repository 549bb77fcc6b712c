#include "kernels/matmul/op.hpp"

#include <gtest/gtest.h>

#include "tests/kernels/cases.hpp"
#include "tests/kernels/support.hpp"

namespace fedllm::kernels {
namespace {

using namespace testing;
namespace ref = reference;

class Matmul : public ::testing::TestWithParam<cases::Matmul> {
protected:
    ThreadPool pool_{2};
};

TEST_P(Matmul, ForwardEqualsOracle) {
    const auto c = GetParam();
    const Grid x = Grid::random(c.m, c.k, "x");
    const Grid w = Grid::random(c.n, c.k, "w", 0);
    const Bf16 w16(w);
    Grid y(c.m, c.n);
    y.fill(NAN);  // overwriting must not read
    matmul_forward(pool_, x.view(), w.weight(), y.view());
    expect_product(y, x.dense(), w.dense(), Dense(c.m, c.n), text(c) + " f32");
    y = Grid::random(c.m, c.n, "y");
    const Dense start = y.dense();
    matmul_forward(pool_, x.view(), w16.weight(), y.view(), Write::Accumulate);
    expect_product(y, x.dense(), w16.rounded.dense(), start, text(c) + " bf16, accumulating");
}

TEST_P(Matmul, BackwardInputEqualsOracle) {
    const auto c = GetParam();
    const Grid dy = Grid::random(c.m, c.n, "dy");
    const Grid w = Grid::random(c.n, c.k, "w", 0);
    const Bf16 w16(w);
    Grid dx(c.m, c.k);
    dx.fill(NAN);
    matmul_backward_input(pool_, dy.view(), w.weight(), dx.view());
    expect_product(dx, dy.dense(), ref::transposed(w.dense()), Dense(c.m, c.k), text(c) + " f32");
    dx = Grid::random(c.m, c.k, "dx");
    const Dense start = dx.dense();
    matmul_backward_input(pool_, dy.view(), w16.weight(), dx.view(), Write::Accumulate);
    expect_product(dx, dy.dense(), ref::transposed(w16.rounded.dense()), start,
                   text(c) + " bf16, accumulating");
}

TEST_P(Matmul, BackwardWeightEqualsOracle) {
    const auto c = GetParam();
    const Grid dy = Grid::random(c.m, c.n, "dy");
    const Grid x = Grid::random(c.m, c.k, "x");
    Grid dw = Grid::random(c.n, c.k, "dw");
    const Dense start = dw.dense();
    const Dense dy_t = ref::transposed(dy.dense()), x_t = ref::transposed(x.dense());
    matmul_backward_weight(pool_, dy.view(), x.view(), dw.view());
    expect_product(dw, dy_t, x_t, start, text(c) + " accumulating");
    dw.fill(NAN);
    matmul_backward_weight(pool_, dy.view(), x.view(), dw.view(), Write::Overwrite);
    expect_product(dw, dy_t, x_t, Dense(c.n, c.k), text(c) + " overwriting");
}

TEST_P(Matmul, BitsDoNotDependOnThreads) {
    const auto c = GetParam();
    const Grid x = Grid::random(c.m, c.k, "x");
    const Grid dy = Grid::random(c.m, c.n, "dy");
    const Grid w = Grid::random(c.n, c.k, "w", 0);
    expect_same_bits(
        [&](ThreadPool& pool) {
            std::vector<Grid> out{Grid(c.m, c.n), Grid(c.m, c.k), Grid(c.n, c.k)};
            matmul_forward(pool, x.view(), w.weight(), out[0].view());
            matmul_backward_input(pool, dy.view(), w.weight(), out[1].view());
            matmul_backward_weight(pool, dy.view(), x.view(), out[2].view());
            return out;
        },
        text(c));
}

INSTANTIATE_TEST_SUITE_P(Cases, Matmul, ::testing::ValuesIn(cases::kMatmul),
                         [](const auto& test) { return text(test.param); });

// Shapes where blocks straddle rows, where rows begin inside a byte and where they begin a block.
constexpr std::array kQuantisedShapes = {
    cases::Matmul{3, 1, 129},  cases::Matmul{4, 17, 33},     cases::Matmul{15, 385, 47},
    cases::Matmul{16, 64, 70}, cases::Matmul{40, 656, 100},  cases::Matmul{5, 1300, 801},
    cases::Matmul{1, 96, 5},   cases::Matmul{130, 192, 576},
};

TEST(MatmulQuantised, EqualsOracle) {
    ThreadPool pool(2);
    for (const WeightType type : kQuantisedTypes) {
        for (const auto& c : kQuantisedShapes) {
            for (const std::size_t block : {32u, 64u, 4096u}) {
                const std::string what = text(c) + " " + name_of(type) + " block " + std::to_string(block);
                const Quantised w(type, c.n, c.k, block);
                const Grid x = Grid::random(c.m, c.k, "x"), dy = Grid::random(c.m, c.n, "dy");
                Grid y(c.m, c.n), dx = Grid::random(c.m, c.k, "dx");
                const Dense start = dx.dense();
                matmul_forward(pool, x.view(), w.weight(), y.view());
                expect_product(y, x.dense(), w.rounded.dense(), Dense(c.m, c.n), what + " forward");
                matmul_backward_input(pool, dy.view(), w.weight(), dx.view(), Write::Accumulate);
                expect_product(dx, dy.dense(), ref::transposed(w.rounded.dense()), start, what + " backward");
            }
        }
    }
}

// The unit matrix times a weight is the weight as the product sees it: bitsandbytes' decoding, bit by bit.
TEST(MatmulQuantised, DecodesToTheVeryBits) {
    ThreadPool pool(2);
    for (const WeightType type : kQuantisedTypes) {
        for (const auto& c : kQuantisedShapes) {
            const Quantised w(type, c.n, c.k);
            for (const bool forward : {true, false}) {
                const std::size_t depth = forward ? c.k : c.n;
                Grid unit(depth, depth, 0), got(depth, forward ? c.n : c.k);
                for (std::size_t i = 0; i < depth; ++i) unit.at(i, i) = 1.0f;
                if (forward) matmul_forward(pool, unit.view(), w.weight(), got.view());
                if (!forward) matmul_backward_input(pool, unit.view(), w.weight(), got.view());
                for (std::size_t n = 0; n < c.n; ++n) {
                    for (std::size_t k = 0; k < c.k; ++k) {
                        ASSERT_EQ(forward ? got.at(k, n) : got.at(n, k), w.rounded.at(n, k))
                            << text(c) << " " << name_of(type) << " (" << n << "," << k << ")";
                    }
                }
            }
        }
    }
}

TEST(MatmulQuantised, BitsDoNotDependOnThreads) {
    for (const WeightType type : kQuantisedTypes) {
        const Quantised w(type, 200, 650);
        const Grid x = Grid::random(150, 650, "x"), dy = Grid::random(150, 200, "dy");
        expect_same_bits(
            [&](ThreadPool& pool) {
                std::vector<Grid> out{Grid(150, 200), Grid(150, 650)};
                matmul_forward(pool, x.view(), w.weight(), out[0].view());
                matmul_backward_input(pool, dy.view(), w.weight(), out[1].view());
                return out;
            },
            name_of(type));
    }
}

TEST(MatmulQuantisedDeathTest, RefusesWeightsWithoutScalesAndOddBlocks) {
    ThreadPool pool(1);
    const Quantised w(WeightType::NF4, 4, 64);
    Grid x(2, 64), y(2, 4);
    WeightView bare = w.weight(), odd = w.weight();
    bare.scales = nullptr;
    odd.block = 48;
    EXPECT_DEATH(matmul_forward(pool, x.view(), bare, y.view()), "scales");
    EXPECT_DEATH(matmul_forward(pool, x.view(), odd, y.view()), "power of two");
}

// A token's output does not depend on its neighbours: generating one by one gives the bits of a batch.
TEST(MatmulRows, AreIndependentOfTheBatch) {
    ThreadPool pool(2);
    const Grid x = Grid::random(37, 500, "x");
    const Grid w = Grid::random(70, 500, "w", 0);
    Grid all(37, 70), one(1, 70);
    matmul_forward(pool, x.view(), w.weight(), all.view());
    for (std::size_t m = 0; m < 37; ++m) {
        matmul_forward(pool, x.view().slice(m, 1), w.weight(), one.view());
        for (std::size_t n = 0; n < 70; ++n) ASSERT_EQ(one.at(0, n), all.at(m, n)) << m << "," << n;
    }
}

TEST(MatmulOracle, GradientsAreFiniteDifferences) {
    const Dense x = Grid::random(3, 4, "x").dense(), w = Grid::random(2, 4, "w").dense();
    const Dense dy = Grid::random(3, 2, "dy").dense();
    expect_gradient([&](const Dense& at) { return weighted_sum(ref::times_transposed(at, w), dy); }, x,
                    ref::times(dy, w), "dx");
    expect_gradient([&](const Dense& at) { return weighted_sum(ref::times_transposed(x, at), dy); }, w,
                    ref::times(ref::transposed(dy), x), "dw");
}

TEST(Bias, IsAddedAndItsGradientSummed) {
    for (const auto& c : cases::kRows) {
        ThreadPool pool(2);
        Grid y = Grid::random(c.rows, c.cols, "y");
        const Grid bias = Grid::random(1, c.cols, "bias", 0);
        const Dense before = y.dense();
        Grid dbias = Grid::random(1, c.cols, "dbias", 0);
        Dense want = dbias.dense(), magnitude = ref::absolute(want);
        add_bias_backward(pool, y.view(), dbias.storage().data());
        for (std::size_t m = 0; m < c.rows; ++m) {
            for (std::size_t n = 0; n < c.cols; ++n) {
                want(0, n) += before(m, n);
                magnitude(0, n) += std::abs(before(m, n));
            }
        }
        expect_within(dbias, want, magnitude, bound_of(c.rows + 1), "dbias");
        add_bias(pool, bias.storage().data(), y.view());
        for (std::size_t m = 0; m < c.rows; ++m) {
            for (std::size_t n = 0; n < c.cols; ++n) {
                ASSERT_EQ(y.at(m, n), static_cast<float>(before(m, n)) + bias.at(0, n));
            }
        }
        EXPECT_TRUE(y.guards_intact());
    }
}

}  // namespace
}  // namespace fedllm::kernels
