#include <array>

#include "kernels/lora_matmul/op_cuda.hpp"
#include "tests/kernels/cuda/harness.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

constexpr double kHalfUlp = 1.0 / 256;     // of bf16, relative
constexpr double kSumUlp = 1.0 / 8388608;  // of an f32 sum, per term: tensor cores cut off

std::vector<float> random_floats(std::size_t count, unsigned seed) {
    std::vector<float> values(count);
    std::uint64_t state = seed;
    for (float& value : values) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        value = static_cast<float>(state >> 40) / 8388608.0f - 1.0f;
    }
    return values;
}

void place_case(Harness& harness) {
    harness.begin("place_adapters");
    std::array<PanelPart, 4> parts;
    const std::size_t ranks[] = {16, 3, 0, 8};
    for (std::size_t i = 0; i < parts.size(); ++i) parts[i].rank = ranks[i];
    harness.check(place_adapters(parts) == 32, "R is not 16 + 8 + 8 rounded up to 16");
    harness.check(parts[0].place == 0 && parts[1].place == 16 && parts[3].place == 24, "places differ");
    harness.check(place_adapters(std::span(parts).first(2)) == 32, "24 is not rounded up to 32");
    harness.check(place_adapters({}) == 0, "no parts take places");
}

// A panel of two projections; only what belongs to the adapters may be written.
void border_case(Harness& harness, std::size_t k, std::size_t rank, std::size_t offset) {
    harness.begin("fill_border k " + std::to_string(k) + ", rank " + std::to_string(rank) + ", " +
                  std::to_string(offset) + " floats off");
    const Stream stream;
    std::array<PanelPart, 2> parts;
    parts[0] = {.row = 0, .rows = 24, .rank = 8};
    parts[1] = {.row = 24, .rows = 37, .rank = rank, .scale = 1.7f};
    Panel panel;
    panel.n = 61, panel.k = k, panel.r = place_adapters(parts);
    const TestMatrix values =
        empty_matrix(stream, panel.n_padded() + panel.r, panel.k_padded() + panel.r, 16);
    panel.values = values.view();
    // An optimiser keeps its values one behind the other: they start anywhere.
    const std::vector<float> host = random_floats(offset + rank * k + parts[1].rows * rank, 7);
    const auto trained = to_device<float>(stream, host);
    parts[1].a = trained.data() + offset;
    parts[1].b = parts[1].a + rank * k;
    fill_border(stream, panel, parts[1]);
    const auto got = to_host(stream, values.device.data(), values.rows * values.pitch);
    std::size_t wrong = 0;
    for (std::size_t row = 0; row < values.rows; ++row) {
        for (std::size_t column = 0; column < values.pitch; ++column) {
            BF16 want = kUntouched;
            const std::size_t of_a = row - panel.n_padded() - parts[1].place;  // wraps where it is not A's
            const std::size_t of_b = column - panel.k_padded() - parts[1].place;
            if (of_a < rank && column < k) want = narrow(host[offset + of_a * k + column]);
            if (of_b < rank && row - parts[1].row < parts[1].rows)
                want = narrow(1.7f * host[offset + rank * k + (row - parts[1].row) * rank + of_b]);
            wrong += got[row * values.pitch + column].bits == want.bits ? 0 : 1;
        }
    }
    harness.check(wrong == 0, std::to_string(wrong) + " elements of the panel differ");
}

struct Case {
    std::size_t m, n, rank;
};

// The part lies in the middle of a panel whose every other value is NaN, dY and S beside NaN.
void backward_case(Harness& harness, Case of) {
    const auto [m, n, rank] = of;
    harness.begin("low_rank_backward " + std::to_string(m) + "x" + std::to_string(n) + ", rank " +
                  std::to_string(rank));
    const Stream stream;
    constexpr std::size_t kBefore = 16, kK = 5;
    const float scale = 1.5f;
    PanelPart part{.row = kBefore, .rows = n, .rank = rank, .place = 8, .scale = scale};
    Panel panel;
    panel.n = kBefore + n, panel.k = kK, panel.r = (rank + 8 + 15) / 16 * 16;
    const TestMatrix b = random_matrix(stream, n, rank, 3, 2.0);
    const TestMatrix values = empty_matrix(stream, panel.n_padded() + panel.r, panel.k_padded() + panel.r);
    panel.values = values.view();
    for (std::size_t row = 0; row < n; ++row) {
        copy_on_device(stream, panel.values.row(part.row + row) + panel.k_padded() + part.place,
                       b.view().row(row), rank * sizeof(BF16));
    }
    const TestMatrix dy = random_matrix(stream, m, n, 1, 1.0, 8),
                     s = random_matrix(stream, m, rank, 2, 3.0, 16);
    const TestMatrix ds = empty_matrix(stream, m, rank, 8);
    std::vector<double> want_ds(m * rank), ds_size(m * rank), want_db(n * rank), db_size(n * rank);
    for (std::size_t i = 0; i < m; ++i) {
        for (std::size_t j = 0; j < n; ++j) {
            for (std::size_t r = 0; r < rank; ++r) {
                const double of_ds = dy.values[i * n + j] * b.values[j * rank + r];
                const double of_db = scale * dy.values[i * n + j] * s.values[i * rank + r];
                want_ds[i * rank + r] += of_ds;
                ds_size[i * rank + r] += std::fabs(of_ds);
                want_db[j * rank + r] += of_db;
                db_size[j * rank + r] += std::fabs(of_db);
            }
        }
    }
    const std::vector<float> before = random_floats(n * rank, 5);
    for (std::size_t i = 0; i < before.size(); ++i) want_db[i] += before[i];
    std::vector<float> first;
    for (int turn = 0; turn < 2; ++turn) {
        const auto db = to_device<float>(stream, before);
        const DeviceBuffer<float> scratch(low_rank_scratch(m, n, rank));
        low_rank_backward(stream, panel, part, dy.view(), s.view(), ds.view(), db.data(), scratch.data());
        const auto got = to_host(stream, db.data(), n * rank);
        if (turn == 1) {
            harness.check(first == got, "db differs the second time");
            break;
        }
        first = got;
        harness.close(
            values_of(harness, stream, ds), want_ds,
            [&](std::size_t i) {
                return std::fabs(want_ds[i]) * kHalfUlp + static_cast<double>(n + 1) * kSumUlp * ds_size[i];
            },
            "ds");
        harness.close(
            got, want_db,
            [&](std::size_t i) {
                return static_cast<double>(m + 2) * kSumUlp * (db_size[i] + std::fabs(before[i]));
            },
            "db");
    }
}

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    return run([](Harness& harness) {
        place_case(harness);
        border_case(harness, 64, 16, 0);
        border_case(harness, 52, 8, 1);
        border_case(harness, 33, 5, 0);
        border_case(harness, 1, 1, 0);
        backward_case(harness, {1, 1, 1});
        backward_case(harness, {70, 40, 16});
        backward_case(harness, {65, 257, 3});  // tails of tokens, outputs and ranks
        backward_case(harness, {130, 1030, 24});
        backward_case(harness, {64, 300, 64});
        backward_case(harness, {37, 72, 136});     // ranks in three blocks
        backward_case(harness, {1420, 5637, 8});   // two steps to a block, one to the last
        backward_case(harness, {1420, 5637, 20});  // buffers of three are used again
    });
}
