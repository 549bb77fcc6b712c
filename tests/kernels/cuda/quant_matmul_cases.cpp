#include <functional>

#include "kernels/quant_matmul/fused.hpp"
#include "kernels/quantize/code_books.hpp"
#include "tests/kernels/cuda/harness.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

constexpr double kHalfUlp = 1.0 / 256;       // of bf16, relative
constexpr double kSumUlp = 1.0 / (1 << 23);  // of f32, truncated: tensor cores need not round to nearest

// NF4 in bitsandbytes' order, its tiles, and the values in bf16 that it stands for.
struct TestWeight {
    std::size_t n = 0, k = 0;
    std::vector<double> values;  // n * k
    DeviceBuffer<std::uint8_t> codes, tile_codes;
    DeviceBuffer<float> scales, tile_scales;

    WeightView view() const { return {codes.data(), WeightType::NF4, n, k, scales.data(), 64}; }
    Nf4Tiles tiles() const { return {tile_codes.data(), tile_scales.data(), n, k}; }
};

TestWeight random_weight(const Stream& stream, std::size_t n, std::size_t k, unsigned seed) {
    TestWeight made;
    made.n = n, made.k = k;
    std::uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 1;
    auto next = [&] { return (state = state * 6364136223846793005ULL + 1442695040888963407ULL) >> 33; };
    std::vector<std::uint8_t> codes(n * k / 2);
    for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(next());
    std::vector<float> scales(n * k / 64);
    for (float& scale : scales) scale = 0.01f + static_cast<float>(next() % 100000) * 1e-5f;
    for (std::size_t i = 0; i < n * k; ++i) {
        const unsigned code = i % 2 == 0 ? codes[i / 2] / 16u : codes[i / 2] % 16u;
        made.values.push_back(widen(narrow(kNf4Values[code] * scales[i / 64])));
    }
    made.codes = to_device<std::uint8_t>(stream, codes);
    made.scales = to_device<float>(stream, scales);
    made.tile_codes = DeviceBuffer<std::uint8_t>(nf4_tile_bytes(n, k));
    made.tile_scales = DeviceBuffer<float>(scales.size());
    make_nf4_tiles(stream, made.view(), made.tile_codes.data(), made.tile_scales.data());
    stream.synchronize();
    return made;
}

using Kernel =
    std::function<void(const Stream&, ConstDeviceMatrix x, const Nf4Tiles& w, DeviceMatrix y, Write write)>;

Kernel kernel_of(const Nf4Tile& tile) {
    return [tile](const Stream& stream, ConstDeviceMatrix x, const Nf4Tiles& w, DeviceMatrix y, Write write) {
        const auto start = tile.way == Nf4Way::Wgmma ? nf4::launch_wgmma : nf4::launch_mma;
        start(stream, tile.tokens, x, w, y, write);
    };
}

void product_case(Harness& harness, const std::string& name, const Kernel& kernel, std::size_t m,
                  std::size_t n, std::size_t k, Write write) {
    const bool accumulate = write == Write::Accumulate;
    harness.begin(name + " " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) +
                  (accumulate ? " accumulated" : ""));
    const Stream stream;
    const TestMatrix x = random_matrix(stream, m, k, 1, 1.0, 8);
    const TestWeight w = random_weight(stream, n, k, 2);
    const TestMatrix y =
        accumulate ? random_matrix(stream, m, n, 3, 2.0, 16) : empty_matrix(stream, m, n, 16);
    std::vector<double> want(m * n), most(m * n);
    for (std::size_t i = 0; i < m * n; ++i) {
        const double before = accumulate ? y.values[i] : 0;
        double sum = before, magnitude = std::fabs(before);
        for (std::size_t c = 0; c < k; ++c) {
            const double term = x.values[i / n * k + c] * w.values[i % n * k + c];
            sum += term;
            magnitude += std::fabs(term);
        }
        want[i] = sum;
        most[i] = std::fabs(sum) * kHalfUlp + magnitude * static_cast<double>(k + 2) * kSumUlp;
    }
    kernel(stream, x.view(), w.tiles(), y.view(), write);
    harness.close(
        values_of(harness, stream, y), want, [&](std::size_t i) { return most[i]; }, "y");
}

// Times the identity the weight must come out to the bit, and every element at its place.
void identity_case(Harness& harness, const std::string& name, const Kernel& kernel, std::size_t n,
                   std::size_t k) {
    harness.begin(name + " identity " + std::to_string(n) + "x" + std::to_string(k));
    const Stream stream;
    std::vector<BF16> identity(k * k);
    for (std::size_t c = 0; c < k; ++c) identity[c * k + c] = narrow(1.0f);
    const auto x = to_device<BF16>(stream, identity);
    const TestWeight w = random_weight(stream, n, k, 4);
    const TestMatrix y = empty_matrix(stream, k, n, 8);
    kernel(stream, {x.data(), k, k}, w.tiles(), y.view(), Write::Overwrite);
    std::vector<double> want;
    for (std::size_t c = 0; c < k; ++c) {
        for (std::size_t row = 0; row < n; ++row) want.push_back(w.values[row * k + c]);
    }
    harness.close(
        values_of(harness, stream, y), want, [](std::size_t) { return 0.0; }, "y");
}

// Tails of tokens, of rows, of the blocks that a stage holds; pipelines longer and shorter than their stages.
void tile_cases(Harness& harness, const Nf4Tile& tile) {
    const std::string name = std::string(name_of(tile.way)) + " tile " + std::to_string(tile.tokens);
    const Kernel kernel = kernel_of(tile);
    const std::size_t blocks = tile.tokens <= 32 ? 27 : 9;
    for (const Write write : {Write::Overwrite, Write::Accumulate}) {
        product_case(harness, name, kernel, 1, 16, 64, write);
        product_case(harness, name, kernel, tile.tokens + 3, tile.rows + 16, 64 * blocks, write);
    }
    product_case(harness, name, kernel, tile.tokens, 2 * tile.rows, 128, Write::Overwrite);
    product_case(harness, name, kernel, 0, tile.rows, 64, Write::Overwrite);
    identity_case(harness, name, kernel, tile.rows, 192);
}

void supports_cases(Harness& harness) {
    harness.begin("nf4_matmul_supports");
    const WeightView good{nullptr, WeightType::NF4, 48, 128, nullptr, 64};
    auto supports = [&](auto change) {
        WeightView weight = good;
        change(weight);
        return nf4_matmul_supports(weight);
    };
    harness.check(supports([](WeightView&) {}), "NF4 48x128");
    harness.check(!supports([](WeightView& w) { w.type = WeightType::FP4; }), "FP4");
    harness.check(!supports([](WeightView& w) { w.block = 128; }), "blocks of 128");
    harness.check(!supports([](WeightView& w) { w.rows = 40; }), "40 rows");
    harness.check(!supports([](WeightView& w) { w.cols = 96; }), "blocks that straddle rows");
    harness.check(!supports([](WeightView& w) { w.rows = 0; }), "nothing");
}

void plan_cases(Harness& harness) {
    harness.begin("choose_tile");
    constexpr unsigned kMultiprocessors = 132;
    for (const std::size_t m : {1, 16, 33, 64, 200, 512, 2048}) {
        for (const Nf4Way way : {Nf4Way::Mma, Nf4Way::Wgmma}) {
            const Nf4Tile tile = choose_tile({m, 4096, 4096}, way, kMultiprocessors);
            harness.check(tile.way == way && tile.tokens > 0, "another way's tile");
            harness.check(m > 16 || way == Nf4Way::Wgmma || tile.tokens == 16, "few tokens, large tile");
        }
    }
    harness.check(fused_way({8, 4096, 4096}, {kMultiprocessors, true}) == Nf4Way::Mma, "8 tokens");
    harness.check(fused_way({512, 4096, 4096}, {kMultiprocessors, true}) == Nf4Way::Wgmma, "512 tokens");
    harness.check(fused_way({512, 4096, 4096}, {108, false}) == Nf4Way::Mma, "no wgmma");

    harness.begin("Nf4Plan");
    Nf4Plan plan({kMultiprocessors, true});
    harness.check(plan.choose({4000, 64, 64}) == Nf4Way::Panel, "unmeasured, many rows");
    harness.check(plan.choose({8, 64, 64}) == Nf4Way::Mma, "unmeasured, few rows");
    plan.measure(64, 128, 1000, [](Nf4Way way, std::size_t m) {
        if (way == Nf4Way::Panel) return 5.0 + 0.01 * static_cast<double>(m);
        if (way == Nf4Way::Mma) return 0.1 * static_cast<double>(m);
        return 2.0 + 0.02 * static_cast<double>(m);
    });
    harness.check(plan.choose({1, 64, 128}) == Nf4Way::Mma, "measured, 1 row");
    harness.check(plan.choose({100, 64, 128}) == Nf4Way::Wgmma, "measured, 100 rows");
    harness.check(plan.choose({256, 64, 128}) == Nf4Way::Wgmma, "measured, 256 rows");
    harness.check(plan.choose({600, 64, 128}) == Nf4Way::Panel, "measured, 600 rows");
    harness.check(plan.choose({5000, 64, 128}) == Nf4Way::Panel, "measured, more rows than that");
    harness.check(plan.describe() ==
                      "64x128: fused mma.sync to 16 rows (1.6 ms), fused wgmma to 256 rows (7.12 ms), "
                      "panel GEMM beyond, measured to 1000 rows (15 ms)\n",
                  plan.describe());
    Nf4Plan older({108, false});
    bool asked_for_wgmma = false;
    older.measure(64, 128, 8, [&](Nf4Way way, std::size_t) {
        asked_for_wgmma |= way == Nf4Way::Wgmma;
        return way == Nf4Way::Panel ? 0.0 : 1.0;  // no room for a panel
    });
    harness.check(!asked_for_wgmma, "measured wgmma where there is none");
    harness.check(older.choose({5000, 64, 128}) == Nf4Way::Mma, "a panel that could not be timed");
}

void all_cases(Harness& harness) {
    supports_cases(harness);
    plan_cases(harness);
    for (const Nf4Tile& tile : kMmaTiles) tile_cases(harness, tile);
    if (device_properties().compute_major == 9) {
        for (const Nf4Tile& tile : kWgmmaTiles) tile_cases(harness, tile);
    }
    const Kernel chosen = [](const Stream& stream, ConstDeviceMatrix x, const Nf4Tiles& w, DeviceMatrix y,
                             Write write) { nf4_matmul(stream, x, w, y, write); };
    product_case(harness, "nf4_matmul", chosen, 5, 48, 192, Write::Overwrite);
    product_case(harness, "nf4_matmul", chosen, 300, 144, 64, Write::Accumulate);
}

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() { return fedllm::kernels::cuda::cases::run(fedllm::kernels::cuda::cases::all_cases); }
