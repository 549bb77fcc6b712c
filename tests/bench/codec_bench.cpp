// Every codec on values like an adapter's: encoding, decoding, and decoding straight into the server's exact
// sum. bench_codec [MILLIONS_OF_VALUES]. One thread; rates are per second of processor time, in GB of f32.
// of_copy: bytes of f32 per byte that copying moved (read plus written) in the same second of processor time.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/base/philox.hpp"
#include "common/codec/codec.hpp"
#include "server/aggregate/accumulator.hpp"
#include "tests/bench/machine_limits.hpp"

namespace fedllm::bench {
namespace {

using codec::CodecId;

struct Case {
    const char* label;
    codec::Spec spec;
};
const Case kCases[] = {
    {"none", {}},
    {"bf16", {.id = CodecId::Bf16}},
    {"int8", {.id = CodecId::Int8}},
    {"int8 stochastic", {.id = CodecId::Int8, .rounding = codec::Rounding::Stochastic}},
    {"int4", {.id = CodecId::Int4}},
    {"sign", {.id = CodecId::Sign}},
    {"topk 5 % int4", {.id = CodecId::TopK, .density = 0.05}},
    {"deadzone step 0.5", {.id = CodecId::Deadzone, .step = 0.5}},
    {"deadzone step 1", {.id = CodecId::Deadzone, .step = 1}},
    {"deadzone step 2", {.id = CodecId::Deadzone, .step = 2}},
    {"deadzone step 4", {.id = CodecId::Deadzone, .step = 4}},
    {"deadzone 0.5 bits", {.id = CodecId::Deadzone, .step = 1, .bits = 0.5}},
};

// Seven projections of A and B, rank 16, in turn, layer by layer.
codec::Layout adapter_layout(std::uint64_t elements) {
    constexpr std::uint32_t kSides[] = {4096, 4096, 4096,  1024, 4096,  1024,  4096,
                                        4096, 4096, 14336, 4096, 14336, 14336, 4096};
    codec::Layout layout{{}, 0, 14};
    for (std::uint32_t group = 0; layout.elements < elements; group = (group + 1) % 14) {
        const std::uint64_t run = std::min<std::uint64_t>(16 * kSides[group], elements - layout.elements);
        layout.runs.push_back({run, group});
        layout.elements += run;
    }
    return layout;
}

// Laplacian with a log-normal scale (sigma 0.8) for every 512 values: the rows of several layers.
std::vector<float> adapter_values(const codec::Layout& layout) {
    Rng rng(1, "bench/codec");
    std::vector<float> values(layout.elements);
    float scale = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (i % 512 == 0) scale = 1e-4f * std::exp(0.8f * rng.normal());
        const std::uint32_t bits = rng.next_u32();
        const float size = -std::log(static_cast<float>((bits >> 1) + 1) * 0x1p-31f) * scale;
        values[i] = (bits & 1u) != 0 ? size : -size;
    }
    return values;
}

double relative_error(std::span<const float> x, std::span<const float> y) {
    double away = 0, all = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        away += std::pow(static_cast<double>(x[i]) - static_cast<double>(y[i]), 2);
        all += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
    return away / all;
}

// Units of work per second of processor time, over at least 0.6 seconds.
template <class Work>
double rate(double units, Work&& work) {
    work();
    double done = 0;
    const double start = core_seconds();
    do {
        work();
        done += units;
    } while (core_seconds() - start < 0.6);
    return done / (core_seconds() - start);
}

void time_case(const Case& c, const codec::Layout& layout, std::span<const float> values,
               server::aggregate::Accumulator& sum, kernels::ThreadPool& pool) {
    const double bytes = static_cast<double>(values.size_bytes());
    std::vector<std::byte> encoded;
    const double copy = copy_bytes_per_core_second(pool);
    const double encode = rate(bytes, [&] { encoded = codec::encode(c.spec, layout, values, 1).value(); });
    std::vector<float> back(values.size());
    const double decode = rate(bytes, [&] {
        codec::decode(c.spec.id, layout, encoded, [&](std::uint64_t first, std::span<const float> slice) {
            std::copy(slice.begin(), slice.end(), back.begin() + static_cast<std::ptrdiff_t>(first));
        }).value();
    });
    const double add = rate(bytes, [&] {
        codec::decode(c.spec.id, layout, encoded, [&](std::uint64_t first, std::span<const float> slice) {
            sum.add(first, slice, 3);
        }).value();
    });
    std::printf(
        "%-18s %7.3f bits  relerr2 %.4f  encode %6.2f (of_copy %.2f)  decode %6.2f  decode+add %6.2f "
        "(of_copy %.2f)\n",
        c.label, 8.0 * static_cast<double>(encoded.size()) / static_cast<double>(values.size()),
        relative_error(values, back), encode * 1e-9, encode / copy, decode * 1e-9, add * 1e-9, add / copy);
    std::fflush(stdout);
}

}  // namespace
}  // namespace fedllm::bench

int main(int argc, char** argv) {
    using namespace fedllm;
    const double millions = argc > 1 ? std::atof(argv[1]) : 16;
    const auto layout = bench::adapter_layout(static_cast<std::uint64_t>(millions * 1e6));
    const auto values = bench::adapter_values(layout);
    kernels::ThreadPool pool(1);
    server::aggregate::Accumulator sum(layout.elements,
                                       tensor::FixedPoint::choose(tensor::bound_with_slack(10), 1e6).value());
    std::printf("%.1f million values, %s, copying %.1f GB per core second; GB of f32 per core second:\n",
                millions, bench::instruction_set().c_str(), bench::copy_bytes_per_core_second(pool) * 1e-9);
    for (const auto& c : bench::kCases) {
        if (argc > 2 && std::string(c.label).find(argv[2]) == std::string::npos) continue;
        bench::time_case(c, layout, values, sum, pool);
    }
}
