#include "kernels/attention/op.hpp"

#include <gtest/gtest.h>

#include "tests/kernels/cases.hpp"
#include "tests/kernels/support.hpp"

namespace fedllm::kernels {
namespace {

using namespace testing;
namespace ref = reference;

std::vector<std::int32_t> first_keys(const cases::Attention& c) {
    std::vector<std::int32_t> keys;
    for (std::size_t b = 0; b < c.batch; ++b) {
        for (std::size_t t = 0; t < c.tokens; ++t) keys.push_back(cases::first_key_of(c.mask, t));
    }
    return keys;
}

struct Inputs {
    explicit Inputs(const cases::Attention& c)
        : scale(1.0f / std::sqrt(static_cast<float>(c.head_size))),
          shape{c.batch, c.tokens, c.heads, c.kv_heads, c.head_size, scale},
          sizes{c.batch, c.tokens, c.heads, c.kv_heads, c.head_size, double{scale}},
          first_key(first_keys(c)),
          q(Grid::random(c.batch * c.tokens, c.heads * c.head_size, "q", 5)),
          k(Grid::random(c.batch * c.tokens, c.kv_heads * c.head_size, "k", 1)),
          v(Grid::random(c.batch * c.tokens, c.kv_heads * c.head_size, "v", 2)),
          dout(Grid::random(c.batch * c.tokens, c.heads * c.head_size, "dout")) {}

    float scale;
    AttentionShape shape;
    ref::AttentionSizes sizes;
    std::vector<std::int32_t> first_key;
    Grid q, k, v, dout;
};

// out, log_sum_exp, dq, dk, dv
std::vector<Grid> run(ThreadPool& pool, const Inputs& in) {
    const std::size_t states = in.shape.batch * in.shape.heads * in.shape.tokens;
    std::vector<Grid> out{Grid(in.q.rows(), in.q.cols()), Grid(1, states, 0),
                          Grid(in.q.rows(), in.q.cols(), 7), Grid(in.k.rows(), in.k.cols()),
                          Grid(in.k.rows(), in.k.cols(), 6)};
    for (Grid& grid : out) grid.fill(NAN);  // everything is overwritten
    std::vector<float> dot(states);
    float* lse = out[1].storage().data();
    attention_forward(pool, in.shape, in.first_key.data(), in.q.view(), in.k.view(), in.v.view(),
                      out[0].view(), lse);
    attention_backward(pool, in.shape, in.first_key.data(), in.q.view(), in.k.view(), in.v.view(),
                       out[0].view(), lse, in.dout.view(), dot.data(), out[2].view(), out[3].view(),
                       out[4].view());
    return out;
}

class Attention : public ::testing::TestWithParam<cases::Attention> {};

TEST_P(Attention, EqualsOracle) {
    const auto c = GetParam();
    if (c.use == cases::Use::TestAndTime) return;  // the oracle would take seconds; the tiles are the same
    const Inputs in(c);
    ThreadPool pool(2);
    const std::vector<Grid> got = run(pool, in);
    const Dense q = in.q.dense(), k = in.k.dense(), v = in.v.dense();
    const auto want = ref::attention(in.sizes, in.first_key, q, k, v);
    const auto gradients = ref::attention_backward(in.sizes, in.first_key, q, k, v, in.dout.dense());

    // A score's error moves its probability by as much relatively; the sums over keys and columns add theirs.
    const double score = bound_of(in.sizes.head_size + 2) * want.score_magnitude;
    const double forward = 2.0 * score + bound_of(in.sizes.tokens) + 8.0 * kUnit;
    const double backward = forward + bound_of(in.sizes.head_size) + bound_of(in.sizes.tokens);
    expect_within(got[0], want.out, want.out_magnitude, forward, "out");
    Dense lse_magnitude = ref::absolute(ref::Dense(1, want.log_sum_exp.size()));
    for (double& value : lse_magnitude.values) value = 1.0;
    expect_within(got[1], row_of(want.log_sum_exp), lse_magnitude, forward + 16.0 * kUnit, "log_sum_exp");
    const std::size_t group = in.sizes.heads / in.sizes.kv_heads;
    const double shared = backward + bound_of(group * in.sizes.tokens);
    expect_within(got[2], gradients.dq, gradients.dq_magnitude, backward, "dq");
    expect_within(got[3], gradients.dk, gradients.dk_magnitude, shared, "dk");
    expect_within(got[4], gradients.dv, gradients.dv_magnitude, shared, "dv");
}

TEST_P(Attention, BitsDoNotDependOnThreads) {
    const Inputs in(GetParam());
    expect_same_bits([&](ThreadPool& pool) { return run(pool, in); }, "attention");
}

std::string text(const ::testing::TestParamInfo<cases::Attention>& test) {
    const auto& c = test.param;
    const char* masks[] = {"causal", "packed", "window"};
    return std::string("B").append(std::to_string(c.batch)) + "T" + std::to_string(c.tokens) + "H" +
           std::to_string(c.heads) + "KV" + std::to_string(c.kv_heads) + "D" + std::to_string(c.head_size) +
           masks[static_cast<int>(c.mask)];
}
INSTANTIATE_TEST_SUITE_P(Cases, Attention, ::testing::ValuesIn(cases::kAttention), text);

// Scores far apart: the online softmax must rescale what it summed, and nothing may overflow.
TEST(AttentionRange, SurvivesScoresOfAThousand) {
    const cases::Attention c{1, 200, 1, 1, 8};
    Inputs in(c);
    for (float& value : in.q.storage()) value *= 300.0f;
    ThreadPool pool(1);
    const std::vector<Grid> got = run(pool, in);
    const auto want = ref::attention(in.sizes, in.first_key, in.q.dense(), in.k.dense(), in.v.dense());
    const double score = bound_of(c.head_size + 2) * want.score_magnitude;
    expect_within(got[0], want.out, want.out_magnitude, 2.0 * score + bound_of(200), "out");
}

TEST(AttentionOracle, GradientsAreFiniteDifferences) {
    const cases::Attention c{1, 6, 2, 1, 3, cases::Mask::Packed};
    const Inputs in(c);
    const Dense q = in.q.dense(), k = in.k.dense(), v = in.v.dense(), dout = in.dout.dense();
    const auto g = ref::attention_backward(in.sizes, in.first_key, q, k, v, dout);
    const auto loss = [&](const Dense& a, const Dense& b, const Dense& d) {
        return weighted_sum(ref::attention(in.sizes, in.first_key, a, b, d).out, dout);
    };
    expect_gradient([&](const Dense& at) { return loss(at, k, v); }, q, g.dq, "dq");
    expect_gradient([&](const Dense& at) { return loss(q, at, v); }, k, g.dk, "dk");
    expect_gradient([&](const Dense& at) { return loss(q, k, at); }, v, g.dv, "dv");
}

}  // namespace
}  // namespace fedllm::kernels
