// Times the marked shapes of tests/kernels/cases.hpp. GFLOP/s and GB/s are by the clock on the wall. of_limit
// is the rate per second of processor time over what the same threads did just before and after: f32 fused
// multiply-adds for products, vdpbf16ps (where the processor has it) for those with bf16 operands, whose
// names end in _bf16, copying 64 MiB for the rest (data that stays in cache may exceed 1).
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "common/base/philox.hpp"
#include "kernels/adamw/op.hpp"
#include "kernels/attention/op.hpp"
#include "kernels/cross_entropy/op.hpp"
#include "kernels/lora_matmul/op.hpp"
#include "kernels/matmul/op.hpp"
#include "kernels/rms_norm/op.hpp"
#include "kernels/rope/op.hpp"
#include "kernels/swiglu/op.hpp"
#include "tests/bench/dot_limits.hpp"
#include "tests/bench/machine_limits.hpp"
#include "tests/bench/yardsticks.hpp"
#include "tests/kernels/cases.hpp"

namespace fedllm::bench {
namespace {

using namespace kernels;
using benchmark::State;

ThreadPool* pool = nullptr;  // made in main, outlives the benchmarks

std::vector<float> random_floats(std::size_t count) {
    Rng rng(1, "bench");
    std::vector<float> values(count);
    for (float& value : values) value = rng.uniform(-1.0f, 1.0f);
    return values;
}

struct Buffer {
    Buffer(std::size_t r, std::size_t c) : rows(r), cols(c), values(random_floats(r * c)) {}
    Matrix view() { return {values.data(), rows, cols}; }
    WeightView weight() const { return {values.data(), WeightType::F32, rows, cols}; }
    std::size_t rows, cols;
    std::vector<float> values;
};

enum class Limit { Fma, Bf16Dot, Copy };
Limit limit_of(Operands operands) {
    static const bool has_dot = bf16_operations_per_core_second(*pool) > 0;
    return operands == Operands::Bf16 && has_dot ? Limit::Bf16Dot : Limit::Fma;
}
double probe(Limit limit) {
    switch (limit) {
        case Limit::Fma: return fma_flops_per_core_second(*pool);
        case Limit::Bf16Dot: return bf16_operations_per_core_second(*pool);
        case Limit::Copy: return copy_bytes_per_core_second(*pool);
    }
    return 0;
}

// Runs the work until Google Benchmark is content, and probes the machine just before and just after.
template <class Work>
void time_work(State& state, Limit limit, double amount, Work&& work) {
    work();
    const double before = probe(limit);
    const double start = core_seconds();
    for (auto _ : state) work();
    const double spent = core_seconds() - start;
    const double peak = (before + probe(limit)) / 2.0;
    const double done = amount * static_cast<double>(state.iterations());
    state.counters[limit != Limit::Copy ? "GFLOP/s" : "GB/s"] =
        benchmark::Counter(done * 1e-9, benchmark::Counter::kIsRate);
    state.counters[limit != Limit::Copy ? "GFLOP/core_s" : "GB/core_s"] = done * 1e-9 / spent;
    state.counters["of_limit"] = done / spent / peak;
}

template <class Body>
void add(const std::string& name, Body body) {
    benchmark::RegisterBenchmark(name.c_str(), body)->UseRealTime()->MeasureProcessCPUTime();
}

// A weight stored as one of the types: bits and scales do not matter for time, as long as values are finite.
struct Stored {
    Stored(WeightType t, std::size_t r, std::size_t c)
        : type(t), rows(r), cols(c), bits(r * c * sizeof(float), 0x3C), scales(r * c / 32 + r, 0.01f) {}
    WeightView view() const { return {bits.data(), type, rows, cols, scales.data(), 64}; }
    WeightType type;
    std::size_t rows, cols;
    std::vector<std::uint8_t> bits;
    std::vector<float> scales;
};
struct Type {
    WeightType type;
    const char* name;
};
constexpr Type kTypes[] = {{WeightType::F32, "f32"},
                           {WeightType::BF16, "bf16"},
                           {WeightType::Int8, "int8"},
                           {WeightType::NF4, "nf4"}};

void add_matmul(const cases::Matmul& c) {
    const std::string shape = std::to_string(c.m) + "x" + std::to_string(c.k) + "x" + std::to_string(c.n);
    const double flops = 2.0 * static_cast<double>(c.m * c.k * c.n);
    for (const Operands operands : {Operands::F32, Operands::Bf16}) {
        for (const Type& type : kTypes) {
            const std::string what =
                std::string(operands == Operands::Bf16 ? "_bf16/" : "/") + type.name + "/";
            add("matmul_forward" + what + shape, [=](State& state) {
                Buffer x(c.m, c.k), y(c.m, c.n);
                const Stored w(type.type, c.n, c.k);
                time_work(state, limit_of(operands), flops, [&] {
                    matmul_forward(*pool, x.view(), w.view(), y.view(), Write::Overwrite, operands);
                });
            });
            add("matmul_backward_input" + what + shape, [=](State& state) {
                Buffer dy(c.m, c.n), dx(c.m, c.k);
                const Stored w(type.type, c.n, c.k);
                time_work(state, limit_of(operands), flops, [&] {
                    matmul_backward_input(*pool, dy.view(), w.view(), dx.view(), Write::Overwrite, operands);
                });
            });
        }
    }
    add("matmul_backward_weight/f32/" + shape, [=](State& state) {
        Buffer dy(c.m, c.n), x(c.m, c.k), dw(c.n, c.k);
        time_work(state, Limit::Fma, flops,
                  [&] { matmul_backward_weight(*pool, dy.view(), x.view(), dw.view()); });
    });
}

void add_yardstick(const std::string& name, GemmNt gemm, const cases::Matmul& c) {
    const std::string shape = std::to_string(c.m) + "x" + std::to_string(c.k) + "x" + std::to_string(c.n);
    add(name + "/f32/" + shape, [=](State& state) {
        Buffer x(c.m, c.k), w(c.n, c.k), y(c.m, c.n);
        time_work(state, Limit::Fma, 2.0 * static_cast<double>(c.m * c.k * c.n),
                  [&] { gemm(c.m, c.n, c.k, x.values.data(), w.values.data(), y.values.data()); });
    });
}

void add_lora(const cases::Lora& c) {
    const std::string shape = std::to_string(c.m) + "x" + std::to_string(c.k) + "x" + std::to_string(c.n) +
                              "r" + std::to_string(c.r);
    const double base = 2.0 * static_cast<double>(c.m * c.k * c.n);
    const double low_rank = 2.0 * static_cast<double>(c.m * c.r * (c.k + c.n));
    for (const bool backward : {false, true}) {
        add(std::string(backward ? "lora_backward/" : "lora_forward/") + shape, [=](State& state) {
            Buffer x(c.m, c.k), w(c.n, c.k), a(c.r, c.k), b(c.n, c.r), s(c.m, c.r), ds(c.m, c.r), y(c.m, c.n);
            Buffer dx(c.m, c.k), da(c.r, c.k), db(c.n, c.r);
            const LoraView lora{a.view(), b.view(), 2.0f};
            time_work(state, Limit::Fma, base + (backward ? 2.0 : 1.0) * low_rank, [&] {
                if (!backward)
                    return lora_matmul_forward(*pool, x.view(), w.weight(), lora, s.view(), y.view());
                lora_matmul_backward(*pool, y.view(), x.view(), w.weight(), lora, s.view(), ds.view(),
                                     dx.view(), {da.view(), db.view()});
            });
        });
    }
}

void add_attention(const cases::Attention& c) {
    const std::string shape = std::string("B").append(std::to_string(c.batch)) + "T" +
                              std::to_string(c.tokens) + "H" + std::to_string(c.heads) + "KV" +
                              std::to_string(c.kv_heads) + "D" + std::to_string(c.head_size);
    // Visible pairs times D times 2; two products forward, five backward.
    const double product = static_cast<double>(c.batch * c.heads * c.tokens * (c.tokens + 1) * c.head_size);
    for (const bool backward : {false, true}) {
        add(std::string(backward ? "attention_backward/" : "attention_forward/") + shape, [=](State& state) {
            const std::size_t rows = c.batch * c.tokens, states = rows * c.heads;
            Buffer q(rows, c.heads * c.head_size), k(rows, c.kv_heads * c.head_size), v = k, dk = k, dv = k;
            Buffer out = q, dout = q, dq = q;
            std::vector<float> lse(states), dot(states);
            const std::vector<std::int32_t> first_key(rows, 0);
            const AttentionShape s{c.batch, c.tokens, c.heads, c.kv_heads, c.head_size, 0.125f};
            attention_forward(*pool, s, first_key.data(), q.view(), k.view(), v.view(), out.view(),
                              lse.data());
            time_work(state, Limit::Fma, product * (backward ? 5.0 : 2.0), [&] {
                if (!backward) {
                    return attention_forward(*pool, s, first_key.data(), q.view(), k.view(), v.view(),
                                             out.view(), lse.data());
                }
                attention_backward(*pool, s, first_key.data(), q.view(), k.view(), v.view(), out.view(),
                                   lse.data(), dout.view(), dot.data(), dq.view(), dk.view(), dv.view());
            });
        });
    }
}

void add_rowwise(const cases::Rows& c) {
    const std::string shape = std::to_string(c.rows) + "x" + std::to_string(c.cols);
    const double bytes = 4.0 * static_cast<double>(c.rows * c.cols);  // of one matrix
    add("rms_norm_forward/" + shape, [=](State& state) {
        Buffer x(c.rows, c.cols), y(c.rows, c.cols), weight(1, c.cols), rstd(1, c.rows);
        time_work(state, Limit::Copy, 2.0 * bytes, [&] {
            rms_norm_forward(*pool, x.view(), weight.values.data(), 1e-5f, y.view(), rstd.values.data());
        });
    });
    add("rms_norm_backward/" + shape, [=](State& state) {
        Buffer x(c.rows, c.cols), dy(c.rows, c.cols), dx(c.rows, c.cols), weight(1, c.cols), rstd(1, c.rows);
        time_work(state, Limit::Copy, 3.0 * bytes, [&] {
            rms_norm_backward(*pool, dy.view(), x.view(), weight.values.data(), rstd.values.data(), dx.view(),
                              Write::Overwrite, nullptr);
        });
    });
    add("swiglu_forward/" + shape, [=](State& state) {
        Buffer gate(c.rows, c.cols), up(c.rows, c.cols), out(c.rows, c.cols);
        time_work(state, Limit::Copy, 3.0 * bytes,
                  [&] { swiglu_forward(*pool, gate.view(), up.view(), out.view()); });
    });
    add("swiglu_backward/" + shape, [=](State& state) {
        Buffer gate(c.rows, c.cols), up(c.rows, c.cols), dout(c.rows, c.cols), dg = gate, du = up;
        time_work(state, Limit::Copy, 5.0 * bytes,
                  [&] { swiglu_backward(*pool, dout.view(), gate.view(), up.view(), dg.view(), du.view()); });
    });
}

void add_rope(const cases::Rope& c) {
    add("rope/" + std::to_string(c.rows) + "x" + std::to_string(c.heads) + "x" + std::to_string(c.head_size),
        [=](State& state) {
            Buffer x(c.rows, c.heads * c.head_size), cosine(c.rows, c.head_size / 2), sine = cosine;
            const std::vector<double> frequencies(c.head_size / 2, 0.01);  // true turns keep x in range
            rope_table(c.rows, frequencies, cosine.values.data(), sine.values.data());
            const std::vector<std::int32_t> positions(c.rows, 0);
            time_work(state, Limit::Copy, 8.0 * static_cast<double>(x.values.size()), [&] {
                rope(*pool, x.view(), c.heads, c.head_size, positions.data(), cosine.values.data(),
                     sine.values.data(), Turn::Forward);
            });
        });
}

void add_cross_entropy(const cases::Rows& c) {
    add("cross_entropy_forward_backward/" + std::to_string(c.rows) + "x" + std::to_string(c.cols),
        [=](State& state) {
            Buffer logits(c.rows, c.cols);
            const std::vector<std::int32_t> targets(c.rows, 1);
            std::vector<float> losses(c.rows);
            time_work(state, Limit::Copy, 8.0 * static_cast<double>(c.rows * c.cols),
                      [&] { cross_entropy_forward_backward(*pool, logits.view(), targets, losses, 1.0f); });
        });
}

void add_adamw() {
    constexpr std::size_t kCount = 4u << 20;  // an adapter of four million parameters
    add("adamw/4Mi", [](State& state) {
        Buffer g(1, kCount), p(1, kCount), m(1, kCount), v(1, kCount);
        for (float& value : v.values) value = value * value;
        time_work(state, Limit::Copy, 7.0 * 4.0 * static_cast<double>(kCount),
                  [&] { adamw(*pool, {}, 3, 1.0f, g.values, p.values, m.values, v.values); });
    });
}

template <class List, class Add>
void add_timed(const List& list, Add add_case) {
    for (const auto& c : list) {
        if (c.use == cases::Use::TestAndTime) add_case(c);
    }
}

}  // namespace
}  // namespace fedllm::bench

int main(int argc, char** argv) {
    using namespace fedllm::bench;
    namespace cases = fedllm::kernels::cases;
    fedllm::kernels::ThreadPool threads;
    pool = &threads;
    benchmark::AddCustomContext("threads", std::to_string(threads.threads()));
    benchmark::AddCustomContext("instruction_set", instruction_set());
    benchmark::AddCustomContext("fma_gflop_per_core_s",
                                std::to_string(fma_flops_per_core_second(threads) * 1e-9));
    benchmark::AddCustomContext("copy_gb_per_core_s",
                                std::to_string(copy_bytes_per_core_second(threads) * 1e-9));
    add_timed(cases::kMatmul, add_matmul);
    add_timed(cases::kLora, add_lora);
    add_timed(cases::kAttention, add_attention);
    add_timed(cases::kRows, add_rowwise);
    add_timed(cases::kRope, add_rope);
    add_timed(cases::kLogits, add_cross_entropy);
    add_adamw();
    // Last, since their threads keep spinning for a while after each call.
    if (const auto gemm = openblas(threads.threads())) {
        add_timed(cases::kMatmul, [&](const auto& c) { add_yardstick("yardstick_openblas", *gemm, c); });
    }
    if (const auto gemm = onednn()) {
        add_timed(cases::kMatmul, [&](const auto& c) { add_yardstick("yardstick_onednn", *gemm, c); });
    }
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
}
