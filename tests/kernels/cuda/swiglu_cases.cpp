#include "kernels/swiglu/op_cuda.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/cuda/harness.hpp"
#include "tests/kernels/reference.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

constexpr double kRound = 0x1p-8;  // of bf16, relative
constexpr double kTiny = 1e-35;    // where the GPU's quick division flushes to zero

// Of a sigmoid in f32, relative: CUDA's guide gives 2 + 1.173 |g| units for __expf, 2 for __fdividef.
double sigmoid_error(double g) { return (6 + 1.2 * std::fabs(g)) * 0x1p-23; }

struct Inputs {
    TestMatrix gate, up, dout;
};
// Gates as large as 110: exp(-g) is inf, exp(g) is.
Inputs inputs_of(const Stream& stream, std::size_t rows, std::size_t cols, double scale) {
    return {random_matrix(stream, rows, cols, 1, scale, 16), random_matrix(stream, rows, cols, 2, 2.0, 8),
            random_matrix(stream, rows, cols, 3, 3.0, 0)};
}
std::string name_of(const char* what, std::size_t rows, std::size_t cols, double scale) {
    return std::string(what) + " " + std::to_string(rows) + "x" + std::to_string(cols) + " to " +
           std::to_string(scale);
}

void forward_case(Harness& harness, std::size_t rows, std::size_t cols, double scale) {
    harness.begin(name_of("swiglu_forward", rows, cols, scale));
    const Stream stream;
    const Inputs in = inputs_of(stream, rows, cols, scale);
    const TestMatrix out = empty_matrix(stream, rows, cols, 8);
    swiglu_forward(stream, in.gate.view(), in.up.view(), out.view());
    std::vector<double> want(rows * cols);
    for (std::size_t i = 0; i < want.size(); ++i)
        want[i] = reference::swiglu(in.gate.values[i], in.up.values[i]);
    harness.close(
        values_of(harness, stream, out), want,
        [&](std::size_t i) {
            return std::fabs(want[i]) * (kRound + 2 * sigmoid_error(in.gate.values[i])) + kTiny;
        },
        "out");
}

enum class Act { None, Own, OverDout };

void backward_case(Harness& harness, std::size_t rows, std::size_t cols, double scale, Act act) {
    harness.begin(name_of("swiglu_backward", rows, cols, scale) + " act " +
                  std::to_string(static_cast<int>(act)));
    const Stream stream;
    const Inputs in = inputs_of(stream, rows, cols, scale);
    const TestMatrix own = empty_matrix(stream, rows, cols, 24);
    const TestMatrix& again = act == Act::Own ? own : in.dout;
    swiglu_backward(stream, in.dout.view(), in.gate.view(), in.up.view(),
                    act == Act::None ? DeviceMatrix{} : again.view());
    std::vector<double> dgate(rows * cols), dup(rows * cols), out(rows * cols);
    for (std::size_t i = 0; i < dgate.size(); ++i) {
        const auto d = reference::swiglu_backward(in.dout.values[i], in.gate.values[i], in.up.values[i]);
        dgate[i] = d.dgate;
        dup[i] = d.dup;
        out[i] = act == Act::None ? in.dout.values[i] : reference::swiglu(in.gate.values[i], in.up.values[i]);
    }
    const auto bound = [&](const std::vector<double>& want) {
        return [&](std::size_t i) {
            return std::fabs(want[i]) * (kRound + 2 * sigmoid_error(in.gate.values[i])) + kTiny;
        };
    };
    harness.close(
        values_of(harness, stream, in.gate), dgate,
        [&](std::size_t i) {  // the slope s + g s (1 - s) crosses zero: its terms count
            const double g = std::fabs(in.gate.values[i]), s = reference::sigmoid(in.gate.values[i]);
            const double terms = std::fabs(in.dout.values[i] * in.up.values[i]) * s * (1 + g);
            return std::fabs(dgate[i]) * kRound + terms * 2 * sigmoid_error(g) + kTiny;
        },
        "dgate");
    harness.close(values_of(harness, stream, in.up), dup, bound(dup), "dup");
    harness.close(values_of(harness, stream, again), out, bound(out), "act");
}

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    return run([](Harness& harness) {
        for (const auto& shape : fedllm::kernels::cases::kRows) {
            if (shape.use != fedllm::kernels::cases::Use::TestOnly) continue;
            for (const double scale : {4.0, 110.0}) forward_case(harness, shape.rows, shape.cols, scale);
            backward_case(harness, shape.rows, shape.cols, 4.0, Act::OverDout);
            backward_case(harness, shape.rows, shape.cols, 110.0, Act::Own);
        }
        backward_case(harness, 6, 40, 4.0, Act::None);
    });
}
