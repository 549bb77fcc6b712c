#include "kernels/rope/op_cuda.hpp"
#include "tests/kernels/cases.hpp"
#include "tests/kernels/cuda/harness.hpp"
#include "tests/kernels/reference.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

constexpr double kRound = 0x1p-8;         // of bf16, relative
constexpr std::size_t kPositions = 3000;  // of the table, so that angles are many turns

struct Tables {
    std::vector<double> frequencies;
    std::vector<float> cosine, sine;  // (kPositions, D/2)
};
Tables tables_of(std::size_t half) {
    Tables made{std::vector<double>(half), std::vector<float>(kPositions * half),
                std::vector<float>(kPositions * half)};
    for (std::size_t j = 0; j < half; ++j)
        made.frequencies[j] = std::pow(10'000.0, -static_cast<double>(j) / static_cast<double>(half));
    rope_table(kPositions, made.frequencies, made.cosine.data(), made.sine.data());
    return made;
}

void rope_case(Harness& harness, std::size_t rows, std::size_t heads, std::size_t head_size, Turn turn) {
    const bool forward = turn == Turn::Forward;
    harness.begin(std::string(forward ? "rope " : "rope back ") + std::to_string(rows) + "x" +
                  std::to_string(heads) + "x" + std::to_string(head_size));
    const Stream stream;
    const TestMatrix x = random_matrix(stream, rows, heads * head_size, 1, 2.0, 16);
    const Tables tables = tables_of(head_size / 2);
    std::vector<std::int32_t> positions(rows);
    for (std::size_t m = 0; m < rows; ++m)
        positions[m] = static_cast<std::int32_t>((m * 977 + kPositions - 1) % kPositions);
    const auto device_positions = to_device<std::int32_t>(stream, positions);
    const auto cosine = to_device<float>(stream, tables.cosine);
    const auto sine = to_device<float>(stream, tables.sine);
    rope(stream, x.view(), heads, head_size, device_positions.data(), cosine.data(), sine.data(), turn);

    reference::Dense before(rows, heads * head_size);
    before.values = x.values;
    const reference::Dense want =
        reference::rope(before, heads, positions, tables.frequencies, forward ? 1 : -1);
    harness.close(
        values_of(harness, stream, x), want.values,
        [&](std::size_t i) {
            // |cos|, |sin| <= 1: their rounding and those of product and sum are of the pair's size.
            const std::size_t half = head_size / 2;
            const std::size_t other = i % head_size < half ? i + half : i - half;
            const double pair = std::fabs(before.values[i]) + std::fabs(before.values[other]);
            return std::fabs(want.values[i]) * kRound + pair * 4 * 0x1p-24;
        },
        "x");
}

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    return run([](Harness& harness) {
        for (const auto turn : {fedllm::kernels::Turn::Forward, fedllm::kernels::Turn::Backward}) {
            for (const auto& shape : fedllm::kernels::cases::kRope) {
                if (shape.use == fedllm::kernels::cases::Use::TestOnly)
                    rope_case(harness, shape.rows, shape.heads, shape.head_size, turn);
            }
            for (const std::size_t heads : {1, 4, 5, 11}) rope_case(harness, 37, heads, 64, turn);
            rope_case(harness, 3, 2, 16, turn);
            rope_case(harness, 130, 3, 128, turn);
            rope_case(harness, 41, 2, 24, turn);  // 24 % 16 != 0
        }
    });
}
