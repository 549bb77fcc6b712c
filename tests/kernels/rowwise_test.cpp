// RMSNorm, SwiGLU, RoPE and embedding: each row (or token) on its own.
#include <gtest/gtest.h>

#include "kernels/embedding/op.hpp"
#include "kernels/rms_norm/op.hpp"
#include "kernels/rope/op.hpp"
#include "kernels/swiglu/op.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/support.hpp"

namespace fedllm::kernels {
namespace {

using namespace testing;
namespace ref = reference;

constexpr float kEpsilon = 1e-5f;

// y, rstd, dx, dweight
std::vector<Grid> run_norm(ThreadPool& pool, const Grid& x, const Grid& weight, const Grid& dy, Write write) {
    std::vector<Grid> out{Grid(x.rows(), x.cols()), Grid(1, x.rows(), 0), Grid(x.rows(), x.cols()),
                          Grid(1, x.cols(), 0)};
    out[2].fill(write == Write::Accumulate ? 2.0f : NAN);
    const float* w = weight.storage().data();
    float* rstd = out[1].storage().data();
    rms_norm_forward(pool, x.view(), w, kEpsilon, out[0].view(), rstd);
    rms_norm_backward(pool, dy.view(), x.view(), w, rstd, out[2].view(), write, out[3].storage().data());
    return out;
}

TEST(RmsNorm, EqualsOracle) {
    for (const auto& c : cases::kRows) {
        Grid x = Grid::random(c.rows, c.cols, "x");
        for (std::size_t i = 0; i < c.cols; ++i) x.at(0, i) *= 1e-3f;  // below epsilon: it must take part
        const Grid dy = Grid::random(c.rows, c.cols, "dy");
        const Grid weight = Grid::random(1, c.cols, "weight", 0);
        ThreadPool pool(2);
        const std::vector<double> w = weight.dense().values;
        const Dense y = ref::rms_norm(x.dense(), w, double{kEpsilon});
        auto want = ref::rms_norm_backward(dy.dense(), x.dense(), w, double{kEpsilon});
        for (const Write write : {Write::Overwrite, Write::Accumulate}) {
            const std::vector<Grid> got = run_norm(pool, x, weight, dy, write);
            expect_within(got[0], y, y, bound_of(c.cols), "y");
            if (write == Write::Accumulate) {
                for (double& value : want.dx.values) value += 2.0;
                for (double& value : want.dx_magnitude.values) value += 2.0;
            }
            expect_within(got[2], want.dx, want.dx_magnitude, 2.0 * bound_of(c.cols), "dx");
            expect_within(got[3], row_of(want.dweight), row_of(want.dweight_magnitude),
                          bound_of(c.rows) + bound_of(c.cols), "dweight");
        }
        Grid in_place = dy;  // dx may be dy
        Grid rstd(1, c.rows, 0), unused(c.rows, c.cols);
        rms_norm_forward(pool, x.view(), weight.storage().data(), kEpsilon, unused.view(),
                         rstd.storage().data());
        rms_norm_backward(pool, in_place.view(), x.view(), weight.storage().data(), rstd.storage().data(),
                          in_place.view(), Write::Overwrite, nullptr);
        EXPECT_EQ(in_place.storage(), run_norm(pool, x, weight, dy, Write::Overwrite)[2].storage());
    }
}

TEST(RmsNorm, BitsDoNotDependOnThreads) {
    for (const auto& c : cases::kRows) {
        const Grid x = Grid::random(c.rows, c.cols, "x"), dy = Grid::random(c.rows, c.cols, "dy");
        const Grid weight = Grid::random(1, c.cols, "weight", 0);
        expect_same_bits([&](ThreadPool& pool) { return run_norm(pool, x, weight, dy, Write::Overwrite); },
                         "rms_norm");
    }
}

TEST(RmsNormOracle, GradientsAreFiniteDifferences) {
    const Dense x = Grid::random(2, 5, "x").dense(), dy = Grid::random(2, 5, "dy").dense();
    const Dense w = Grid::random(1, 5, "w").dense();
    const auto g = ref::rms_norm_backward(dy, x, w.values, 1e-5);
    expect_gradient([&](const Dense& at) { return weighted_sum(ref::rms_norm(at, w.values, 1e-5), dy); }, x,
                    g.dx, "dx");
    expect_gradient([&](const Dense& at) { return weighted_sum(ref::rms_norm(x, at.values, 1e-5), dy); }, w,
                    row_of(g.dweight), "dweight");
}

TEST(Swiglu, EqualsOracleAlsoInPlaceAndFarOut) {
    for (const auto& c : cases::kRows) {
        ThreadPool pool(2);
        Grid gate = Grid::random(c.rows, c.cols, "gate"), up = Grid::random(c.rows, c.cols, "up");
        const Grid dout = Grid::random(c.rows, c.cols, "dout");
        if (c.cols > 4)
            gate.at(0, 0) = 200.0f, gate.at(0, 1) = -200.0f, gate.at(0, 2) = 40.0f, gate.at(0, 3) = -80.0f;
        const Dense gates = gate.dense(), ups = up.dense(), douts = dout.dense();
        Dense y(c.rows, c.cols), dgate = y, dgate_magnitude = y, dup = y;
        for (std::size_t i = 0; i < y.values.size(); ++i) {
            const double g = gates.values[i], u = ups.values[i], d = douts.values[i];
            const auto gradient = ref::swiglu_backward(d, g, u);
            y.values[i] = ref::swiglu(g, u);
            dgate.values[i] = gradient.dgate;
            dgate_magnitude.values[i] = d * u * ref::sigmoid(g) * (1.0 + std::abs(g));
            dup.values[i] = gradient.dup;
        }
        Grid out(c.rows, c.cols);
        expect_same_bits(
            [&](ThreadPool& threads) {
                swiglu_forward(threads, gate.view(), up.view(), out.view());
                return std::vector<Grid>{out};
            },
            "swiglu");
        expect_within(out, y, y, 12.0 * kUnit, "out");
        swiglu_backward(pool, dout.view(), gate.view(), up.view(), gate.view(), up.view());
        expect_within(gate, dgate, dgate_magnitude, 12.0 * kUnit, "dgate");
        expect_within(up, dup, dup, 12.0 * kUnit, "dup");
    }
}

TEST(SwigluOracle, GradientsAreFiniteDifferences) {
    const Dense gate = Grid::random(1, 6, "gate").dense(), up = Grid::random(1, 6, "up").dense();
    Dense dgate(1, 6), dup(1, 6);
    for (std::size_t i = 0; i < 6; ++i) {
        const auto g = ref::swiglu_backward(1.0, gate.values[i], up.values[i]);
        dgate.values[i] = g.dgate;
        dup.values[i] = g.dup;
    }
    const auto total = [](const Dense& g, const Dense& u) {
        double sum = 0.0;
        for (std::size_t i = 0; i < g.values.size(); ++i) sum += ref::swiglu(g.values[i], u.values[i]);
        return sum;
    };
    expect_gradient([&](const Dense& at) { return total(at, up); }, gate, dgate, "dgate");
    expect_gradient([&](const Dense& at) { return total(gate, at); }, up, dup, "dup");
}

struct RopeInputs {
    explicit RopeInputs(const cases::Rope& c) : x(Grid::random(c.rows, c.heads * c.head_size, "x")) {
        for (std::size_t j = 0; j < c.head_size / 2; ++j) {
            frequencies.push_back(
                std::pow(10000.0, -2.0 * static_cast<double>(j) / static_cast<double>(c.head_size)));
        }
        constexpr std::size_t kPositions = 5000;  // far from 0, where single-precision angles would fail
        cosine.resize(kPositions * frequencies.size());
        sine.resize(cosine.size());
        rope_table(kPositions, frequencies, cosine.data(), sine.data());
        for (std::size_t m = 0; m < c.rows; ++m)
            positions.push_back(static_cast<std::int32_t>(m * 37 % kPositions));
    }
    Grid x;
    std::vector<double> frequencies;
    std::vector<float> cosine, sine;
    std::vector<std::int32_t> positions;
};

TEST(Rope, EqualsOracleAndTurnsBack) {
    for (const auto& c : cases::kRope) {
        const RopeInputs in(c);
        ThreadPool pool(2);
        // Each output is a cos + b sin: measured against |a| + |b|.
        Dense magnitude = ref::absolute(in.x.dense());
        const std::size_t half = c.head_size / 2;
        const Dense single = magnitude;
        for (std::size_t m = 0; m < c.rows; ++m) {
            for (std::size_t i = 0; i < magnitude.cols; ++i) {
                magnitude(m, i) += single(m, i % c.head_size < half ? i + half : i - half);
            }
        }
        for (const Turn turn : {Turn::Forward, Turn::Backward}) {
            Grid x = in.x;
            rope(pool, x.view(), c.heads, c.head_size, in.positions.data(), in.cosine.data(), in.sine.data(),
                 turn);
            const double direction = turn == Turn::Forward ? 1.0 : -1.0;
            expect_within(x, ref::rope(in.x.dense(), c.heads, in.positions, in.frequencies, direction),
                          magnitude, 4.0 * kUnit, "rope");
        }
        expect_same_bits(
            [&](ThreadPool& threads) {
                Grid x = in.x;
                rope(threads, x.view(), c.heads, c.head_size, in.positions.data(), in.cosine.data(),
                     in.sine.data(), Turn::Forward);
                return std::vector<Grid>{x};
            },
            "rope");
    }
}

TEST(RopeOracle, GradientIsTheInverseTurn) {
    const RopeInputs in(cases::Rope{3, 2, 4});
    const Dense x = in.x.dense(), dy = Grid::random(3, 8, "dy").dense();
    expect_gradient(
        [&](const Dense& at) {
            return weighted_sum(ref::rope(at, 2, in.positions, in.frequencies, 1.0), dy);
        },
        x, ref::rope(dy, 2, in.positions, in.frequencies, -1.0), "dx");
}

TEST(Embedding, CopiesRowsAndSumsGradientsInTokenOrder) {
    for (const auto& c : cases::kRows) {
        const std::size_t vocabulary = 11;
        const Grid table = Grid::random(vocabulary, c.cols, "table", 0),
                   dout = Grid::random(c.rows, c.cols, "dout");
        const Bf16 narrow(table);
        std::vector<std::int32_t> tokens;  // repeats, and one token never
        for (std::size_t m = 0; m < c.rows; ++m) tokens.push_back(static_cast<std::int32_t>(m * m % 10));
        ThreadPool pool(2);
        Grid wide_out(c.rows, c.cols), narrow_out(c.rows, c.cols);
        embedding_forward(pool, tokens, table.weight(), wide_out.view());
        embedding_forward(pool, tokens, narrow.weight(), narrow_out.view());
        Grid want = Grid::random(vocabulary, c.cols, "dtable");
        const Grid start = want;
        for (std::size_t m = 0; m < c.rows; ++m) {
            const auto token = static_cast<std::size_t>(tokens[m]);
            for (std::size_t i = 0; i < c.cols; ++i) {
                ASSERT_EQ(wide_out.at(m, i), table.at(token, i));
                ASSERT_EQ(narrow_out.at(m, i), narrow.rounded.at(token, i));
                want.at(token, i) += dout.at(m, i);  // the very order, so the very bits
            }
        }
        EXPECT_TRUE(wide_out.guards_intact() && narrow_out.guards_intact());
        expect_same_bits(
            [&](ThreadPool& threads) {
                Grid dtable = start;
                embedding_backward(threads, tokens, dout.view(), dtable.view());
                EXPECT_EQ(dtable.storage(), want.storage());
                return std::vector<Grid>{dtable};
            },
            "embedding");
    }
}

}  // namespace
}  // namespace fedllm::kernels
