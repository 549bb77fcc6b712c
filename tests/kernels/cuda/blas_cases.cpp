#include <cmath>

#include "kernels/matmul/op_cuda.hpp"
#include "tests/kernels/cuda/harness.hpp"

namespace fedllm::kernels::cuda::cases {
namespace {

constexpr double kHalfUlp = 1.0 / 256;         // of bf16, relative
constexpr double kEpsilon = 1.0 / (1U << 23);  // of f32

struct Case {
    std::size_t m, n, k;
    bool a_turned = false, b_turned = false;
    Element d_type = Element::BF16;
    float alpha = 1.0f, beta = 0.0f;
    bool in_place = false;
    std::size_t gap = 0;
};

std::string name_of(const char* what, const Case& of) {
    return std::string(what) + " " + std::to_string(of.m) + "x" + std::to_string(of.n) + "x" +
           std::to_string(of.k) + (of.a_turned ? " a'" : "") + (of.b_turned ? " b'" : "") +
           (of.d_type == Element::F32 ? " f32" : "") + " beta " + std::to_string(of.beta) +
           (of.in_place ? " in place" : "");
}

// The oracle: (m, n) of alpha a b + beta c, and how large the terms of each sum are, for the bound.
struct Expected {
    std::vector<double> values, sizes;
};
Expected expect(const Case& of, const std::vector<double>& a, const std::vector<double>& b,
                const std::vector<double>& c) {
    Expected made;
    for (std::size_t m = 0; m < of.m; ++m) {
        for (std::size_t n = 0; n < of.n; ++n) {
            double sum = 0;
            double size = 0;
            for (std::size_t k = 0; k < of.k; ++k) {
                const double term = (of.a_turned ? a[k * of.m + m] : a[m * of.k + k]) *
                                    (of.b_turned ? b[n * of.k + k] : b[k * of.n + n]);
                sum += term;
                size += std::fabs(term);
            }
            const double more = of.beta == 0 ? 0.0 : double{of.beta} * c[m * of.n + n];
            made.values.push_back(double{of.alpha} * sum + more);
            made.sizes.push_back(std::fabs(double{of.alpha}) * size + std::fabs(more));
        }
    }
    return made;
}

// f32 sums in any order lose at most an eps per addition (a tensor core truncates: 2 half eps); then the
// result is rounded.
void close(Harness& harness, const Case& of, const Expected& want, std::span<const float> got) {
    harness.close(
        got, want.values,
        [&](std::size_t i) {
            return want.sizes[i] * static_cast<double>(of.k + 4) * kEpsilon +
                   (of.d_type == Element::BF16 ? std::fabs(want.values[i]) * kHalfUlp : 0.0);
        },
        "d");
}

// A result with a gap: NaN, or (with `values`) the c that is summed into.
struct Result {
    std::size_t pitch = 0;
    DeviceBuffer<BF16> half;
    DeviceBuffer<float> full;
    void* data(Element type) const {
        return type == Element::F32 ? static_cast<void*>(full.data()) : half.data();
    }
};
Result make_result(const Stream& stream, const Case& of, const std::vector<double>& values) {
    Result made;
    made.pitch = (of.n + 7) / 8 * 8 + of.gap;
    std::vector<float> host(of.m * made.pitch, NAN);
    for (std::size_t i = 0; i < values.size(); ++i)
        host[i / of.n * made.pitch + i % of.n] = static_cast<float>(values[i]);
    std::vector<BF16> narrowed(host.size());
    for (std::size_t i = 0; i < host.size(); ++i) narrowed[i] = narrow(host[i]);
    made.full = to_device<float>(stream, host);
    made.half = to_device<BF16>(stream, narrowed);
    return made;
}
std::vector<float> values_of(Harness& harness, const Stream& stream, const Case& of, const Result& result) {
    std::vector<float> host(of.m * result.pitch);
    if (of.d_type == Element::F32) host = to_host(stream, result.full.data(), host.size());
    if (of.d_type == Element::BF16) {
        const std::vector<BF16> half = to_host(stream, result.half.data(), host.size());
        for (std::size_t i = 0; i < host.size(); ++i) host[i] = widen(half[i]);
    }
    std::vector<float> values;
    bool untouched = true;
    for (std::size_t i = 0; i < host.size(); ++i) {
        if (i % result.pitch < of.n) values.push_back(host[i]);
        if (i % result.pitch >= of.n) untouched = untouched && std::isnan(host[i]);
    }
    harness.check(untouched, "columns between n and pitch were written");
    return values;
}

void bf16_case(Harness& harness, Blas& blas, const Case& of) {
    harness.begin(name_of("bf16", of));
    const Stream stream;
    const TestMatrix a =
        random_matrix(stream, of.a_turned ? of.k : of.m, of.a_turned ? of.m : of.k, 1, 1.0, of.gap);
    const TestMatrix b =
        random_matrix(stream, of.b_turned ? of.n : of.k, of.b_turned ? of.k : of.n, 2, 1.0, of.gap);
    const TestMatrix c = random_matrix(stream, of.m, of.n, 3);
    const Result addend = make_result(stream, of, c.values);
    const Result result = of.in_place ? make_result(stream, of, c.values) : make_result(stream, of, {});
    blas.gemm(stream, {of.m, of.n, of.k, operand(a.view(), of.a_turned), operand(b.view(), of.b_turned),
                       (of.in_place ? result : addend).data(of.d_type), result.pitch, result.data(of.d_type),
                       result.pitch, of.d_type, of.alpha, of.beta});
    close(harness, of, expect(of, a.values, b.values, c.values), values_of(harness, stream, of, result));
}

double widen_e4m3(std::uint8_t bits) {
    const int exponent = bits >> 3 & 15;
    const double size = exponent == 0 ? std::ldexp(bits & 7, -9) : std::ldexp(8 + (bits & 7), exponent - 10);
    return (bits & 0x80) != 0 ? -size : size;
}

struct Narrow {
    std::vector<double> values;  // scaled
    DeviceBuffer<std::uint8_t> device;
    DeviceBuffer<float> scales;
    GemmOperand operand;
};
// Every finite code occurs; each row has its own scale.
Narrow make_narrow(const Stream& stream, std::size_t rows, std::size_t cols, unsigned seed, bool turned) {
    Narrow made;
    const std::size_t pitch = (cols + 15) / 16 * 16 + 16;
    std::vector<std::uint8_t> host(rows * pitch, 0x7F);
    std::vector<float> scales(rows);
    for (std::size_t r = 0; r < rows; ++r) {
        scales[r] = 0.01f * static_cast<float>(1 + (r * 7 + seed) % 13);
        for (std::size_t c = 0; c < cols; ++c) {
            const auto code =
                static_cast<std::uint8_t>((r * cols + c) * 37 % 127 + 128 * ((r + c + seed) % 2));
            host[r * pitch + c] = code;
            made.values.push_back(widen_e4m3(code) * double{scales[r]});
        }
    }
    made.device = to_device<std::uint8_t>(stream, host);
    made.scales = to_device<float>(stream, scales);
    made.operand = {made.device.data(), Element::E4M3, pitch, turned, made.scales.data()};
    return made;
}

void e4m3_case(Harness& harness, Blas& blas, Case of) {
    of.b_turned = true;
    harness.begin(name_of("e4m3", of));
    const Stream stream;
    const Narrow a = make_narrow(stream, of.m, of.k, 1, false);
    const Narrow b = make_narrow(stream, of.n, of.k, 2, true);
    const TestMatrix c = random_matrix(stream, of.m, of.n, 3);
    const Result result = make_result(stream, of, c.values);
    blas.gemm(stream, {of.m, of.n, of.k, a.operand, b.operand, result.data(of.d_type), result.pitch,
                       result.data(of.d_type), result.pitch, of.d_type, of.alpha, of.beta});
    Expected want = expect(of, a.values, b.values, c.values);
    // Hopper's fast sums of E4M3 keep 13 bits of fraction, and drop the rest once every 32 steps of depth.
    const double kept = std::ldexp(1.0, -13) * static_cast<double>(of.k / 32 + 1);
    for (double& size : want.sizes) size *= 1 + kept / (static_cast<double>(of.k + 4) * kEpsilon);
    close(harness, of, want, values_of(harness, stream, of, result));
}

// What a graph repeats is what was enqueued: the shape met before, the operands' values then.
void graph_case(Harness& harness, Blas& blas) {
    harness.begin("a product in a graph");
    const Case of{24, 40, 16, false, true, Element::F32, 1.0f, 1.0f, true};
    const Stream stream;
    const TestMatrix a = random_matrix(stream, of.m, of.k, 1);
    const TestMatrix b = random_matrix(stream, of.n, of.k, 2);
    const std::vector<double> zeros(of.m * of.n, 0.0);
    const Result result = make_result(stream, of, zeros);
    const Gemm gemm{of.m,
                    of.n,
                    of.k,
                    operand(a.view()),
                    operand(b.view(), true),
                    result.full.data(),
                    result.pitch,
                    result.full.data(),
                    result.pitch,
                    of.d_type,
                    of.alpha,
                    of.beta};
    Blas fresh;
    bool refused = false;
    try {
        Graph::record(stream, [&] { fresh.gemm(stream, gemm); });
    } catch (const GpuError&) {
        refused = true;
    }
    harness.check(refused, "a shape met for the first time was recorded");
    blas.prepare(stream, gemm);
    const Graph graph = Graph::record(stream, [&] { blas.gemm(stream, gemm); });
    fill_bytes(stream, result.full.data(), 0, result.full.bytes());
    for (int turn = 0; turn < 3; ++turn) graph.launch(stream);
    std::vector<float> got = to_host(stream, result.full.data(), of.m * of.n);
    for (float& value : got) value /= 3;
    close(harness, of, expect(of, a.values, b.values, zeros), got);
}

// A shape is met with its sum half done: choosing how to multiply must not add to it.
void first_sum_case(Harness& harness) {
    Blas fresh;
    bf16_case(harness, fresh, {32, 48, 64, true, false, Element::F32, 1.0f, 1.0f, true});
}

}  // namespace
}  // namespace fedllm::kernels::cuda::cases

int main() {
    using namespace fedllm::kernels::cuda::cases;
    using fedllm::kernels::cuda::Element;
    return run([](Harness& harness) {
        fedllm::kernels::cuda::Blas blas;
        for (const bool a_turned : {false, true}) {
            for (const bool b_turned : {false, true}) {
                bf16_case(harness, blas, {1, 8, 8, a_turned, b_turned});
                bf16_case(harness, blas, {33, 65, 130, a_turned, b_turned, Element::BF16, 0.5f, 0, false, 8});
                bf16_case(harness, blas, {33, 65, 130, a_turned, b_turned, Element::F32, 2.0f, 1.0f, true});
                bf16_case(harness, blas,
                          {64, 5, 1, a_turned, b_turned, Element::BF16, 1.0f, -0.5f, false, 8});
            }
        }
        first_sum_case(harness);
        graph_case(harness, blas);
        e4m3_case(harness, blas, {16, 32, 16});
        e4m3_case(harness, blas, {33, 72, 144, false, false, Element::BF16, 1.0f, 1.0f, true});
        e4m3_case(harness, blas, {5, 24, 64, false, false, Element::F32, 0.5f, 0.0f, false});
    });
}
