#include "kernels/lora_matmul/op.hpp"

#include <gtest/gtest.h>

#include "tests/kernels/cases.hpp"
#include "tests/kernels/support.hpp"

namespace fedllm::kernels {
namespace {

using namespace testing;
namespace ref = reference;

constexpr float kScale = 1.5f;

struct Inputs {
    explicit Inputs(const cases::Lora& c)
        : x(Grid::random(c.m, c.k, "x")),
          w(Grid::random(c.n, c.k, "w", 0)),
          a(Grid::random(c.r, c.k, "a")),
          b(Grid::random(c.n, c.r, "b")),
          dy(Grid::random(c.m, c.n, "dy")) {}
    Grid x;
    Bf16 w;
    Grid a, b, dy;

    LoraView lora() const { return {a.view(), b.view(), kScale}; }
    ref::Lora oracle() const { return {a.dense(), b.dense(), kScale}; }
    // The same products of absolute values: what the rounding errors are measured against.
    ref::Lora magnitude() const { return {ref::absolute(a.dense()), ref::absolute(b.dense()), kScale}; }
};

struct Outputs {
    Grid y, s, ds, dx, da, db;
};
Outputs run(ThreadPool& pool, const Inputs& in, Write dx_write) {
    const std::size_t m = in.x.rows(), k = in.x.cols(), n = in.dy.cols(), r = in.a.rows();
    Outputs out{Grid(m, n), Grid(m, r), Grid(m, r), Grid(m, k), Grid(r, k), Grid(n, r)};
    for (Grid* grid : {&out.y, &out.s, &out.ds}) grid->fill(NAN);
    if (dx_write == Write::Overwrite) out.dx.fill(NAN);
    if (dx_write == Write::Accumulate) out.dx.fill(1.0f);
    for (Grid* grid : {&out.da, &out.db}) grid->fill(1.0f);  // gradients are accumulated into
    lora_matmul_forward(pool, in.x.view(), in.w.weight(), in.lora(), out.s.view(), out.y.view());
    lora_matmul_backward(pool, in.dy.view(), in.x.view(), in.w.weight(), in.lora(), out.s.view(),
                         out.ds.view(), out.dx.view(), {out.da.view(), out.db.view()}, dx_write);
    return out;
}

Dense plus_one(Dense a) {
    for (double& value : a.values) value += 1.0;
    return a;
}

class LoraMatmul : public ::testing::TestWithParam<cases::Lora> {};

TEST_P(LoraMatmul, EqualsOracle) {
    const auto c = GetParam();
    if (c.m * c.k * c.n > 50'000'000) return;  // the dense oracle would take seconds; its parts are tested
    const Inputs in(c);
    ThreadPool pool(2);
    const Outputs got = run(pool, in, Write::Accumulate);
    const Dense x = in.x.dense(), w = in.w.rounded.dense(), dy = in.dy.dense();
    const Dense x1 = ref::absolute(x), w1 = ref::absolute(w), dy1 = ref::absolute(dy);
    const auto want = ref::lora_backward(dy, x, w, in.oracle());
    const auto magnitude = ref::lora_backward(dy1, x1, w1, in.magnitude());
    expect_within(got.y, ref::lora_forward(x, w, in.oracle()), ref::lora_forward(x1, w1, in.magnitude()),
                  bound_of(c.k + c.r), "y");
    expect_within(got.dx, plus_one(want.dx), plus_one(magnitude.dx), bound_of(c.n + c.r), "dx");
    expect_within(got.da, plus_one(want.da), plus_one(magnitude.da), bound_of(c.m + c.n), "da");
    expect_within(got.db, plus_one(want.db), plus_one(magnitude.db), bound_of(c.m + c.k), "db");
}

TEST_P(LoraMatmul, BitsDoNotDependOnThreads) {
    const Inputs in(GetParam());
    expect_same_bits(
        [&](ThreadPool& pool) {
            Outputs out = run(pool, in, Write::Overwrite);
            return std::vector<Grid>{out.y, out.s, out.ds, out.dx, out.da, out.db};
        },
        "lora");
}

INSTANTIATE_TEST_SUITE_P(Cases, LoraMatmul, ::testing::ValuesIn(cases::kLora), [](const auto& test) {
    return std::to_string(test.param.m) + "x" + std::to_string(test.param.k) + "x" +
           std::to_string(test.param.n) + "r" + std::to_string(test.param.r);
});

TEST(LoraMatmulInput, GradientIsOptional) {
    const Inputs in(cases::kLora[2]);
    ThreadPool pool(2);
    const Outputs full = run(pool, in, Write::Overwrite);
    Grid ds(in.x.rows(), in.a.rows()), da(in.a.rows(), in.a.cols()), db(in.b.rows(), in.b.cols());
    da.fill(1.0f);
    db.fill(1.0f);
    lora_matmul_backward(pool, in.dy.view(), in.x.view(), in.w.weight(), in.lora(), full.s.view(), ds.view(),
                         {}, {da.view(), db.view()});
    EXPECT_EQ(da.storage(), full.da.storage());
    EXPECT_EQ(db.storage(), full.db.storage());
}

// Over a base of zeros the adapter alone is all there is; ds, da and db never see the base.
TEST(LoraAdd, IsTheProductWithoutItsBase) {
    const Inputs in(cases::kLora[2]);
    ThreadPool pool(2);
    const Grid zeros(in.w.rounded.rows(), in.w.rounded.cols(), /*padding=*/0);
    const Outputs full = run(pool, in, Write::Overwrite);
    Grid s(in.x.rows(), in.a.rows()), ds = s, y(in.x.rows(), in.b.rows()), y_want = y;
    Grid dx(in.x.rows(), in.x.cols()), dx_want = dx, da(in.a.rows(), in.a.cols()),
                                       db(in.b.rows(), in.b.cols());
    da.fill(1.0f);
    db.fill(1.0f);
    lora_add_forward(pool, in.x.view(), in.lora(), s.view(), y.view());
    lora_add_backward(pool, in.dy.view(), in.x.view(), in.lora(), s.view(), ds.view(), dx.view(),
                      {da.view(), db.view()});
    EXPECT_EQ(s.storage(), full.s.storage());
    EXPECT_EQ(ds.storage(), full.ds.storage());
    EXPECT_EQ(da.storage(), full.da.storage());
    EXPECT_EQ(db.storage(), full.db.storage());
    lora_matmul_forward(pool, in.x.view(), zeros.weight(), in.lora(), s.view(), y_want.view());
    lora_matmul_backward(pool, in.dy.view(), in.x.view(), zeros.weight(), in.lora(), s.view(), ds.view(),
                         dx_want.view(), {da.view(), db.view()});
    for (std::size_t i = 0; i < y.rows(); ++i) {
        for (std::size_t n = 0; n < y.cols(); ++n) ASSERT_FLOAT_EQ(y.at(i, n), y_want.at(i, n));
        for (std::size_t k = 0; k < dx.cols(); ++k) ASSERT_FLOAT_EQ(dx.at(i, k), dx_want.at(i, k));
    }
}

TEST(LoraOracle, GradientsAreFiniteDifferences) {
    const Inputs in(cases::Lora{3, 4, 5, 2});
    const Dense x = in.x.dense(), w = in.w.rounded.dense(), dy = in.dy.dense();
    const ref::Lora lora = in.oracle();
    const auto g = ref::lora_backward(dy, x, w, lora);
    const auto loss = [&](const Dense& at, const ref::Lora& l) {
        return weighted_sum(ref::lora_forward(at, w, l), dy);
    };
    expect_gradient([&](const Dense& at) { return loss(at, lora); }, x, g.dx, "dx");
    expect_gradient([&](const Dense& at) { return loss(x, {at, lora.b, lora.scale}); }, lora.a, g.da, "da");
    expect_gradient([&](const Dense& at) { return loss(x, {lora.a, at, lora.scale}); }, lora.b, g.db, "db");
}

}  // namespace
}  // namespace fedllm::kernels
