// Products whose operands are rounded to bf16 while they are packed: against exact products of the rounded
// operands, for every stored type. On a processor with AVX-512 BF16 these run its dot products; with
// FEDLLM_TEST_INSTRUCTION_SET=avx2 the rounded floats that any other processor multiplies.
#include <gtest/gtest.h>

#include <bit>
#include <limits>

#include "kernels/lora_matmul/op.hpp"
#include "kernels/matmul/op.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/support.hpp"

namespace fedllm::kernels {
namespace {

using namespace testing;
namespace ref = reference;

float rounded(float value) { return tensor::bf16_to_f32(tensor::f32_to_bf16(value)); }

Dense rounded(const Grid& from) { return Bf16(from).rounded.dense(); }

// Weights of one shape in all types.
struct Weights {
    Grid f32;
    Bf16 bf16;
    std::vector<Quantised> quantised;

    Weights(std::size_t rows, std::size_t cols)
        : f32(Grid::random(rows, cols, "w", 0)), bf16(Grid::random(rows, cols, "w16", 0)) {
        for (const WeightType type : kQuantisedTypes) quantised.emplace_back(type, rows, cols);
    }
    // Calls visit(weight, the values that it stands for, name).
    template <class Visit>
    void each(Visit&& visit) const {
        visit(f32.weight(), f32, "f32");
        visit(bf16.weight(), bf16.rounded, "bf16");
        for (const auto& one : quantised) visit(one.weight(), one.rounded, name_of(one.type));
    }
};

class MatmulBf16 : public ::testing::TestWithParam<cases::Matmul> {
protected:
    ThreadPool pool_{2};
};

// A dot product of two steps rounds at most as often as two fused multiply-adds: the same bound holds.
TEST_P(MatmulBf16, EqualsOracleOfRoundedOperands) {
    const auto c = GetParam();
    const Grid x = Grid::random(c.m, c.k, "x"), dy = Grid::random(c.m, c.n, "dy");
    Weights(c.n, c.k).each([&](const WeightView& w, const Grid& values, const std::string& type) {
        Grid y(c.m, c.n), dx = Grid::random(c.m, c.k, "dx");
        y.fill(NAN);  // overwriting must not read
        const Dense start = dx.dense(), w_rounded = rounded(values);
        matmul_forward(pool_, x.view(), w, y.view(), Write::Overwrite, Operands::Bf16);
        expect_product(y, rounded(x), w_rounded, Dense(c.m, c.n), text(c) + " forward " + type);
        matmul_backward_input(pool_, dy.view(), w, dx.view(), Write::Accumulate, Operands::Bf16);
        expect_product(dx, rounded(dy), ref::transposed(w_rounded), start, text(c) + " backward " + type);
    });
}

TEST_P(MatmulBf16, BitsDoNotDependOnThreadsOrTheOtherRows) {
    const auto c = GetParam();
    const Grid x = Grid::random(c.m, c.k, "x"), dy = Grid::random(c.m, c.n, "dy");
    Weights(c.n, c.k).each([&](const WeightView& w, const Grid&, const std::string& type) {
        Grid all(c.m, c.n), last(1, c.n);
        expect_same_bits(
            [&](ThreadPool& pool) {
                std::vector<Grid> out{Grid(c.m, c.n), Grid(c.m, c.k)};
                matmul_forward(pool, x.view(), w, out[0].view(), Write::Overwrite, Operands::Bf16);
                matmul_backward_input(pool, dy.view(), w, out[1].view(), Write::Overwrite, Operands::Bf16);
                all = out[0];
                return out;
            },
            text(c) + " " + type);
        matmul_forward(pool_, x.view().slice(c.m - 1, 1), w, last.view(), Write::Overwrite, Operands::Bf16);
        for (std::size_t n = 0; n < c.n; ++n) ASSERT_EQ(last.at(0, n), all.at(c.m - 1, n)) << type << n;
    });
}

INSTANTIATE_TEST_SUITE_P(Cases, MatmulBf16, ::testing::ValuesIn(cases::kMatmul),
                         [](const auto& test) { return text(test.param); });

// The unit matrix is exact in bf16, so the product is the other operand as it was rounded, bit by bit.
TEST(MatmulBf16Rounding, IsToNearestEvenForEitherOperand) {
    ThreadPool pool(2);
    Grid values = Grid::random(37, 75, "x", 0);
    const float hard[] = {1.0f + 0x1p-8f,  1.0f + 0x3p-8f, 1.0f + 0x1p-8f + 0x1p-23f,
                          -1.0f - 0x1p-8f, 0x1.FEp0f,      0x1.FF8p0f,
                          0x1p-126f,       0x1.01p-126f,   -0.0f,
                          0x1.FEFFFEp127f, 0x1p127f};
    std::copy(std::begin(hard), std::end(hard), values.storage().begin());
    std::copy(std::begin(hard), std::end(hard), values.storage().end() - std::size(hard));
    Grid unit(75, 75, 0), units(37, 37, 0), as_x(37, 75), as_w(75, 37), as_w_turned(37, 75);
    for (std::size_t i = 0; i < 75; ++i) unit.at(i, i) = 1.0f;
    for (std::size_t i = 0; i < 37; ++i) units.at(i, i) = 1.0f;
    matmul_forward(pool, values.view(), unit.weight(), as_x.view(), Write::Overwrite, Operands::Bf16);
    matmul_forward(pool, unit.view(), values.weight(), as_w.view(), Write::Overwrite, Operands::Bf16);
    matmul_backward_input(pool, units.view(), values.weight(), as_w_turned.view(), Write::Overwrite,
                          Operands::Bf16);
    for (std::size_t i = 0; i < 37; ++i) {
        for (std::size_t j = 0; j < 75; ++j) {
            const float want = rounded(values.at(i, j));
            ASSERT_EQ(as_x.at(i, j), want) << i << "," << j;
            ASSERT_EQ(as_w.at(j, i), want) << i << "," << j;
            ASSERT_EQ(as_w_turned.at(i, j), want) << i << "," << j;
        }
    }
}

// Whatever NaN's lower bits, and wherever in a pair it stands; infinity too. Other rows stay as they are.
TEST(MatmulBf16Rounding, KeepsWhatIsNotFinite) {
    ThreadPool pool(2);
    const float nans[] = {std::bit_cast<float>(0x7FFFFFFFu), std::bit_cast<float>(0xFFFFFFFFu),
                          std::bit_cast<float>(0x7F800001u), std::bit_cast<float>(0x7FC00000u)};
    const Grid w = Grid::random(20, 70, "w", 0);
    for (const std::size_t at : {0u, 1u, 33u, 68u, 69u}) {
        for (const float nan : nans) {
            Grid x = Grid::random(3, 70, "x"), y(3, 20);
            x.at(1, at) = nan;
            matmul_forward(pool, x.view(), w.weight(), y.view(), Write::Overwrite, Operands::Bf16);
            for (std::size_t n = 0; n < 20; ++n) {
                ASSERT_TRUE(std::isnan(y.at(1, n))) << at << "," << n;
                ASSERT_TRUE(std::isfinite(y.at(0, n)) && std::isfinite(y.at(2, n))) << at << "," << n;
            }
        }
        Grid x = Grid::random(1, 70, "x"), y(1, 20);
        x.at(0, at) = std::numeric_limits<float>::infinity();
        matmul_forward(pool, x.view(), w.weight(), y.view(), Write::Overwrite, Operands::Bf16);
        for (std::size_t n = 0; n < 20; ++n) ASSERT_TRUE(std::isinf(y.at(0, n))) << at << "," << n;
    }
}

// An odd depth leaves half a pair: it is zero, whatever lies behind the operands.
TEST(MatmulBf16Rounding, ReadsNothingBehindAnOddDepth) {
    ThreadPool pool(2);
    for (const std::size_t depth : {1u, 37u, 69u}) {
        Grid x = Grid::random(5, depth + 1, "x", 0), w = Grid::random(depth + 1, 70, "w", 0);
        for (std::size_t m = 0; m < 5; ++m) x.at(m, depth) = NAN;
        std::fill_n(w.storage().end() - 70, 70, NAN);
        const Bf16 w16(w);
        for (WeightView weight : {w.weight(), w16.weight()}) {
            weight.rows = depth;
            Grid y(5, 70);
            matmul_backward_input(pool, x.view().columns(0, depth), weight, y.view(), Write::Overwrite,
                                  Operands::Bf16);
            for (const float value : y.dense().values) ASSERT_TRUE(std::isfinite(value)) << depth;
            std::swap(weight.rows, weight.cols);  // 70 rows of `depth` values, NaN behind the last
            matmul_forward(pool, x.view().columns(0, depth), weight, y.view(), Write::Overwrite,
                           Operands::Bf16);
            for (const float value : y.dense().values) ASSERT_TRUE(std::isfinite(value)) << depth;
        }
    }
}

class LoraMatmulBf16 : public ::testing::TestWithParam<cases::Lora> {};

// The adapter's part is that of f32 operands, to the bit where it stands alone; the base's is rounded.
TEST_P(LoraMatmulBf16, RoundsTheBaseAlone) {
    const auto c = GetParam();
    if (c.m * c.k * c.n > 50'000'000) return;
    const Grid x = Grid::random(c.m, c.k, "x"), dy = Grid::random(c.m, c.n, "dy");
    const Grid a = Grid::random(c.r, c.k, "a"), b = Grid::random(c.n, c.r, "b");
    const LoraView lora{a.view(), b.view(), 1.5f};
    const Quantised w(WeightType::NF4, c.n, c.k);
    ThreadPool pool(2);
    struct Outputs {
        Grid y, s, ds, dx, da, db;
    };
    const auto run = [&](Operands operands) {
        Outputs out{Grid(c.m, c.n), Grid(c.m, c.r), Grid(c.m, c.r),
                    Grid(c.m, c.k), Grid(c.r, c.k), Grid(c.n, c.r)};
        lora_matmul_forward(pool, x.view(), w.weight(), lora, out.s.view(), out.y.view(), operands);
        lora_matmul_backward(pool, dy.view(), x.view(), w.weight(), lora, out.s.view(), out.ds.view(),
                             out.dx.view(), {out.da.view(), out.db.view()}, Write::Overwrite, operands);
        return out;
    };
    const Outputs got = run(Operands::Bf16), plain = run(Operands::F32);
    for (const auto part : {&Outputs::s, &Outputs::ds, &Outputs::da, &Outputs::db}) {
        EXPECT_EQ((got.*part).storage(), (plain.*part).storage());
    }
    const ref::Lora oracle{a.dense(), b.dense(), 1.5};
    const ref::Lora magnitude{ref::absolute(a.dense()), ref::absolute(b.dense()), 1.5};
    const auto sum = [](Dense one, const Dense& other) {
        for (std::size_t i = 0; i < one.values.size(); ++i) one.values[i] += other.values[i];
        return one;
    };
    const Dense none(c.n, c.k), w_rounded = rounded(w.rounded), x_rounded = rounded(x),
                                dy_rounded = rounded(dy);
    expect_within(
        got.y, sum(ref::lora_forward(x.dense(), none, oracle), ref::times_transposed(x_rounded, w_rounded)),
        sum(ref::lora_forward(ref::absolute(x.dense()), none, magnitude),
            ref::times_transposed(ref::absolute(x_rounded), ref::absolute(w_rounded))),
        bound_of(c.k + c.r), "y");
    expect_within(
        got.dx,
        sum(ref::lora_backward(dy.dense(), x.dense(), none, oracle).dx, ref::times(dy_rounded, w_rounded)),
        sum(ref::lora_backward(ref::absolute(dy.dense()), ref::absolute(x.dense()), none, magnitude).dx,
            ref::times(ref::absolute(dy_rounded), ref::absolute(w_rounded))),
        bound_of(c.n + c.r), "dx");
}

INSTANTIATE_TEST_SUITE_P(Cases, LoraMatmulBf16, ::testing::ValuesIn(cases::kLora), [](const auto& test) {
    return std::to_string(test.param.m) + "x" + std::to_string(test.param.k) + "x" +
           std::to_string(test.param.n) + "r" + std::to_string(test.param.r);
});

}  // namespace
}  // namespace fedllm::kernels
