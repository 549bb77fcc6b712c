#include "kernels/attention/op_cuda.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/cuda/harness.hpp"
#include "tests/kernels/reference.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

using kernels::cases::first_key_of;
using kernels::cases::Mask;
using reference::Dense;

constexpr double kHalfUlp = 1.0 / 256;          // of bf16, relative
constexpr double kRound = 1.0 / (1 << 24);      // of f32, relative
constexpr double kExp2Error = 1.0 / (1 << 22);  // of the GPU's exp2, relative

// Every head tile and what does not fill it, every tile of queries and keys with and without a tail, tiles
// that nobody, somebody and everybody sees, and heads that share keys.
struct Case {
    std::size_t batch, tokens, heads, kv_heads, head_size;
    Mask mask = Mask::Causal;
};
constexpr Case kCases[] = {
    {1, 1, 1, 1, 8},
    {2, 5, 2, 1, 24},
    {1, 130, 3, 1, 32, Mask::Window},
    {2, 150, 2, 2, 64, Mask::Packed},
    {1, 260, 2, 1, 64},
    {1, 200, 2, 1, 80, Mask::Packed},
    {1, 128, 1, 1, 96},
    {1, 257, 1, 1, 128, Mask::Window},
    {1, 64, 2, 1, 104},
    {1, 97, 2, 1, 256, Mask::Window},
    {1, 66, 1, 1, 136},
};

Dense dense(const TestMatrix& matrix) {
    Dense out(matrix.rows, matrix.cols);
    out.values = matrix.values;
    return out;
}

struct Inputs {
    Stream stream;
    reference::AttentionSizes sizes;
    std::vector<std::int32_t> first_key;
    DeviceBuffer<std::int32_t> device_first_key;
    TestMatrix q, k, v, dout;

    explicit Inputs(const Case& c)
        : sizes{c.batch,    c.tokens,    c.heads,
                c.kv_heads, c.head_size, 1 / std::sqrt(static_cast<double>(c.head_size))},
          q(random_matrix(stream, c.batch * c.tokens, c.heads * c.head_size, 1, 3.0, 8)),
          k(random_matrix(stream, c.batch * c.tokens, c.kv_heads * c.head_size, 2, 3.0, 16)),
          v(random_matrix(stream, c.batch * c.tokens, c.kv_heads * c.head_size, 3, 2.0)),
          dout(random_matrix(stream, c.batch * c.tokens, c.heads * c.head_size, 4, 1.0, 24)) {
        for (std::size_t row = 0; row < q.rows; ++row)
            first_key.push_back(first_key_of(c.mask, row % c.tokens));
        device_first_key = to_device<std::int32_t>(stream, first_key);
    }
    AttentionShape shape() const {
        return {sizes.batch,    sizes.tokens,    sizes.heads,
                sizes.kv_heads, sizes.head_size, static_cast<float>(sizes.scale)};
    }
    // The relative error of a probability: of its score and of what that is shifted by, of exp2, and of the
    // sum.
    double probability_error(const reference::AttentionResult& want) const {
        const double score = (static_cast<double>(sizes.head_size) + 4) * kRound * (1 + want.score_magnitude);
        return 2 * (score + kExp2Error) + static_cast<double>(sizes.tokens) * kRound;
    }
};

std::string name_of(const char* what, const Case& c) {
    return std::string(what) + " B" + std::to_string(c.batch) + " T" + std::to_string(c.tokens) + " H" +
           std::to_string(c.heads) + "/" + std::to_string(c.kv_heads) + " D" + std::to_string(c.head_size) +
           " mask " + std::to_string(static_cast<int>(c.mask));
}

// Weights are rounded to bf16 and so is the result.
void forward_case(Harness& harness, const Case& c) {
    harness.begin(name_of("attention_forward", c));
    const Inputs in(c);
    const TestMatrix out = empty_matrix(in.stream, in.q.rows, in.q.cols, 16);
    DeviceBuffer<float> log_sum_exp(c.batch * c.heads * c.tokens);
    attention_forward(in.stream, in.shape(), in.device_first_key.data(), in.q.view(), in.k.view(),
                      in.v.view(), out.view(), log_sum_exp.data());
    const auto want = reference::attention(in.sizes, in.first_key, dense(in.q), dense(in.k), dense(in.v));
    const double error = in.probability_error(want);
    harness.close(
        values_of(harness, in.stream, out), want.out.values,
        [&](std::size_t i) {
            return want.out_magnitude.values[i] * (kHalfUlp + error) +
                   std::fabs(want.out.values[i]) * kHalfUlp;
        },
        "out");
    harness.close(
        to_host(in.stream, log_sum_exp.data(), log_sum_exp.size()), want.log_sum_exp,
        [&](std::size_t) { return error; }, "log_sum_exp");
}

// What the backward pass is given of the forward pass: rounded, as that would have left it.
TestMatrix rounded(const Stream& stream, const Dense& values, std::size_t gap) {
    TestMatrix made = random_matrix(stream, values.rows, values.cols, 0, 0.0, gap);
    std::vector<BF16> host(made.rows * made.pitch, kUntouched);
    for (std::size_t r = 0; r < made.rows; ++r) {
        for (std::size_t c = 0; c < made.cols; ++c)
            host[r * made.pitch + c] = narrow(static_cast<float>(values(r, c)));
    }
    made.device = to_device<BF16>(stream, host);
    return made;
}

// Weights and gradients of scores are rounded to bf16, and so is the result; `out` was, from which the
// gradients of scores come.
void backward_case(Harness& harness, const Case& c) {
    harness.begin(name_of("attention_backward", c));
    const Inputs in(c);
    const Dense q = dense(in.q), k = dense(in.k), v = dense(in.v);
    const auto forward = reference::attention(in.sizes, in.first_key, q, k, v);
    const TestMatrix out = rounded(in.stream, forward.out, 8);
    const std::vector<float> log_sum_exp(forward.log_sum_exp.begin(), forward.log_sum_exp.end());
    const auto device_log_sum_exp = to_device<float>(in.stream, log_sum_exp);
    const TestMatrix dq = empty_matrix(in.stream, q.rows, q.cols, 8);
    const TestMatrix dk = empty_matrix(in.stream, k.rows, k.cols, 16);
    const TestMatrix dv = empty_matrix(in.stream, k.rows, k.cols, 24);
    const DeviceBuffer<std::byte> scratch(attention_scratch(in.shape()));
    attention_backward(in.stream, in.shape(), in.device_first_key.data(), in.q.view(), in.k.view(),
                       in.v.view(), out.view(), device_log_sum_exp.data(), in.dout.view(), scratch.data(),
                       dq.view(), dk.view(), dv.view());
    const auto want = reference::attention_backward(in.sizes, in.first_key, q, k, v, dense(in.dout));
    const double error = in.probability_error(forward);
    auto check = [&](const TestMatrix& got, const Dense& expected, const Dense& magnitude, double roundings,
                     const char* what) {
        harness.close(
            values_of(harness, in.stream, got), expected.values,
            [&](std::size_t i) {
                return magnitude.values[i] * (roundings * kHalfUlp + error) +
                       std::fabs(expected.values[i]) * kHalfUlp;
            },
            what);
    };
    check(dq, want.dq, want.dq_magnitude, 2, "dq");
    check(dk, want.dk, want.dk_magnitude, 2, "dk");
    check(dv, want.dv, want.dv_magnitude, 1, "dv");
}

// Both passes, one fed by the other: blocks run in another order each time, the bits are the same.
void repeat_case(Harness& harness, const Case& c) {
    harness.begin(name_of("attention twice", c));
    const Inputs in(c);
    auto run_once = [&] {
        const TestMatrix out = empty_matrix(in.stream, in.q.rows, in.q.cols);
        const TestMatrix dq = empty_matrix(in.stream, in.q.rows, in.q.cols);
        const TestMatrix dk = empty_matrix(in.stream, in.k.rows, in.k.cols);
        const TestMatrix dv = empty_matrix(in.stream, in.k.rows, in.k.cols);
        const DeviceBuffer<float> log_sum_exp(c.batch * c.heads * c.tokens);
        const DeviceBuffer<std::byte> scratch(attention_scratch(in.shape()));
        attention_forward(in.stream, in.shape(), in.device_first_key.data(), in.q.view(), in.k.view(),
                          in.v.view(), out.view(), log_sum_exp.data());
        attention_backward(in.stream, in.shape(), in.device_first_key.data(), in.q.view(), in.k.view(),
                           in.v.view(), out.view(), log_sum_exp.data(), in.dout.view(), scratch.data(),
                           dq.view(), dk.view(), dv.view());
        std::vector<float> all;
        for (const TestMatrix* matrix : {&out, &dq, &dk, &dv}) {
            const std::vector<float> values = values_of(harness, in.stream, *matrix);
            all.insert(all.end(), values.begin(), values.end());
        }
        return all;
    };
    harness.check(run_once() == run_once(), "the second time the bits differ");  // and are no NaN
}

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    return run([](Harness& harness) {
        for (const Case& c : kCases) {
            forward_case(harness, c);
            backward_case(harness, c);
        }
        repeat_case(harness, {2, 150, 4, 2, 64, Mask::Packed});
    });
}
