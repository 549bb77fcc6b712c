#include <algorithm>
#include <limits>

#include "kernels/cross_entropy/op_cuda.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/cuda/harness.hpp"
#include "tests/kernels/reference.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

constexpr double kRound = 0x1p-8;  // of bf16, relative
constexpr double kUnit = 0x1p-24;  // of f32, relative
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr float kScale = 0.25f;

// Every third row is ignored; the last column and the first are somebody's target.
std::vector<std::int32_t> targets_of(std::size_t rows, std::size_t cols) {
    std::vector<std::int32_t> targets(rows);
    for (std::size_t m = 0; m < rows; ++m)
        targets[m] = m % 3 == 1 ? kIgnoreIndex : static_cast<std::int32_t>(m * 7919 % cols);
    targets[rows - 1] = static_cast<std::int32_t>(cols - 1);
    return targets;
}

struct Result {
    std::vector<float> losses, logits;
};
Result run_on(Harness& harness, const TestMatrix& logits, const std::vector<std::int32_t>& targets,
              bool gradient) {
    const Stream stream;
    const auto device_targets = to_device<std::int32_t>(stream, targets);
    const auto scale = to_device<float>(stream, std::span(&kScale, 1));
    DeviceBuffer<float> losses(logits.rows);
    cross_entropy(stream, logits.view(), device_targets.data(), losses.data(),
                  gradient ? scale.data() : nullptr);
    return {to_host(stream, losses.data(), logits.rows), values_of(harness, stream, logits)};
}

// Of the sum of V terms exp(x - highest), relative. A term: 2 roundings before exp2, each of the exponent's
// size, and 2 units of exp2 itself. Additions: a thread has at least 4 eights before there is a second warp,
// and at most V / 512 elements then; as many again for eights of a new highest, and 16 between threads.
double sum_error(std::size_t cols, double range) {
    const double chain = 64 + static_cast<double>(cols) / 256;
    return (4 * range + 8 + chain + 16) * kUnit;
}

void check_against_oracle(Harness& harness, const TestMatrix& logits,
                          const std::vector<std::int32_t>& targets, double range) {
    reference::Dense values(logits.rows, logits.cols);
    values.values = logits.values;
    const double error = sum_error(logits.cols, range);
    const Result forward = run_on(harness, logits, targets, /*gradient=*/false);
    harness.close(
        forward.logits, logits.values, [](std::size_t) { return 0.0; }, "logits kept");
    const Result both = run_on(harness, logits, targets, /*gradient=*/true);
    std::vector<double> losses(logits.rows);
    for (std::size_t m = 0; m < logits.rows; ++m) losses[m] = reference::cross_entropy(values, m, targets[m]);
    const auto bound = [&](std::size_t m) {
        return targets[m] < 0 ? 0.0 : error + 2 * (range + std::fabs(losses[m])) * kUnit;
    };
    harness.close(forward.losses, losses, bound, "losses");
    harness.close(both.losses, losses, bound, "losses beside a gradient");
    const reference::Dense want =
        reference::scaled(reference::cross_entropy_gradient(values, targets), kScale);
    harness.close(
        both.logits, want.values,
        [&](std::size_t i) {
            const std::size_t m = i / logits.cols;
            const bool of_target = static_cast<std::int32_t>(i % logits.cols) == targets[m];
            const double softmax = std::fabs(want.values[i] + (of_target ? kScale : 0.0));
            return std::fabs(want.values[i]) * kRound + 2 * softmax * error +
                   (of_target ? 2 * kScale * kUnit : 0.0) + (targets[m] < 0 ? 0.0 : 1e-37);
        },
        "gradient");
}

void random_case(Harness& harness, std::size_t rows, std::size_t cols, double scale) {
    harness.begin("cross_entropy " + std::to_string(rows) + "x" + std::to_string(cols) + " to " +
                  std::to_string(scale));
    const Stream stream;
    const TestMatrix logits = random_matrix(stream, rows, cols, 1, scale, 8);
    check_against_oracle(harness, logits, targets_of(rows, cols), 2 * scale);
}

// Each row rises, so that every eight has a new highest logit.
void rising_case(Harness& harness, std::size_t cols) {
    harness.begin("cross_entropy of rising logits");
    const Stream stream;
    TestMatrix logits = empty_matrix(stream, 2, cols);
    std::vector<BF16> host(2 * logits.pitch, kUntouched);
    for (std::size_t i = 0; i < 2 * cols; ++i) {
        const float value = 40.0f * static_cast<float>(i % cols) / static_cast<float>(cols) - 20.0f;
        host[i / cols * logits.pitch + i % cols] = narrow(value);
        logits.values.push_back(widen(narrow(value)));
    }
    copy_to_device(stream, logits.device.data(), host.data(), host.size() * sizeof(BF16));
    stream.synchronize();
    check_against_oracle(harness, logits, {5, 3}, 40.0);
}

// As op.hpp's body: huge logits give no NaN, a NaN is not hidden, -inf is an impossible token.
void special_case(Harness& harness) {
    harness.begin("cross_entropy of huge logits, -inf and NaN");
    const Stream stream;
    constexpr std::size_t kRows = 4, kCols = 300;
    const TestMatrix logits = empty_matrix(stream, kRows, kCols);
    std::vector<BF16> host(kRows * logits.pitch, kUntouched);
    const auto fill = [&](std::size_t m, double value) {
        std::fill_n(host.begin() + static_cast<std::ptrdiff_t>(m * logits.pitch), kCols,
                    narrow(static_cast<float>(value)));
    };
    const auto set = [&](std::size_t m, std::size_t c, double value) {
        host[m * logits.pitch + c] = narrow(static_cast<float>(value));
    };
    fill(0, 0.0), set(0, 3, 1e30), set(0, 4, -3.3e38);
    fill(1, 0.0), set(1, 270, std::numeric_limits<double>::quiet_NaN());
    fill(2, -kInfinity), set(2, 299, 2.0), set(2, 0, 2.0);
    fill(3, -3.3e38);
    copy_to_device(stream, logits.device.data(), host.data(), host.size() * sizeof(BF16));
    stream.synchronize();
    const Result got = run_on(harness, logits, {3, 0, 299, 7}, /*gradient=*/true);
    harness.check(got.losses[0] == 0 && got.logits[3] == 0 && got.logits[4] == 0, "huge logits");
    harness.check(std::isnan(got.losses[1]) && std::isnan(got.logits[kCols]), "a NaN is hidden");
    const float* row = got.logits.data() + 2 * kCols;
    harness.check(std::fabs(got.losses[2] - std::log(2.0)) < 1e-6, "loss of two possible tokens");
    harness.check(row[0] == kScale / 2 && row[299] == -kScale / 2 && row[1] == 0, "two possible tokens");
    harness.check(std::fabs(got.losses[3] - std::log(300.0)) < 1e-5, "loss of the lowest logits");
}

void add_losses_case(Harness& harness, std::size_t count) {
    harness.begin("add_losses " + std::to_string(count));
    const Stream stream;
    std::vector<float> losses(count);
    double want = 0.5;
    for (std::size_t i = 0; i < count; ++i) {
        losses[i] = 1.0f / static_cast<float>(i + 1);
        want += losses[i];
    }
    const auto device = to_device<float>(stream, losses);
    const double before = 0.5;
    const auto sum = to_device<double>(stream, std::span(&before, 1));
    add_losses(stream, device.data(), count, sum.data());
    const double got = to_host(stream, sum.data(), 1)[0];
    harness.check(std::fabs(got - want) <= static_cast<double>(count + 1) * 0x1p-53 * want, "the sum");
}

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    return run([](Harness& harness) {
        for (const auto& shape : fedllm::kernels::cases::kLogits) {
            if (shape.use != fedllm::kernels::cases::Use::TestOnly) continue;
            for (const double scale : {3.0, 50.0}) random_case(harness, shape.rows, shape.cols, scale);
        }
        random_case(harness, 3, 8 * 4 * 64, 3.0);  // no tail, two warps
        random_case(harness, 2, 131'075, 5.0);     // more than shared memory keeps
        rising_case(harness, 2053);
        special_case(harness);
        for (const std::size_t count : {0, 1, 33, 5000}) add_losses_case(harness, count);
    });
}
