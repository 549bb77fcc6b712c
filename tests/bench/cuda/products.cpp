#include "kernels/lora_matmul/op_cuda.hpp"
#include "kernels/quant_matmul/op_cuda.hpp"
#include "kernels/quantize/op_cuda.hpp"
#include "tests/bench/cuda/models.hpp"

namespace fedllm::bench {
namespace {

struct Product {
    const char* name;
    std::size_t m, n, k;
};
std::vector<Product> products_of(const Model& model) {
    const std::size_t m = model.rows();
    return {{"qkv", m, model.q() + 2 * model.kv(), model.hidden},
            {"o", m, model.hidden, model.q()},
            {"gate_up", m, 2 * model.ffn, model.hidden},
            {"down", m, model.hidden, model.ffn},
            {"head", m / 4, model.vocabulary, model.hidden}};
}
double flops(const Product& p) {
    return 2 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
}
double bytes(const Product& p, double of_x, double of_w) {
    return static_cast<double>(p.m * p.k) * of_x + static_cast<double>(p.n * p.k) * of_w +
           2 * static_cast<double>(p.m * p.n);
}

void measure_product(Meter& meter, const Product& p, const std::string& name) {
    const cuda::Stream& stream = meter.stream();
    cuda::Blas blas;
    const auto w = random_bf16(stream, p.n * p.k);
    const auto x = random_bf16(stream, p.m * p.k);
    const auto y = random_bf16(stream, p.m * p.n);
    const auto x_view = view(x, p.m, p.k);
    const auto w_view = view(w, p.n, p.k);
    const auto y_view = view(y, p.m, p.n);
    meter.measure({name + " y = x w'", by(p.m, p.n, p.k), bytes(p, 2, 2), flops(p), Peak::BF16}, [&] {
        blas.gemm(stream, {p.m, p.n, p.k, cuda::operand(x_view), cuda::operand(w_view, true), nullptr, 0,
                           y.data(), p.n});
    });
    meter.measure({name + " dx = dy w", by(p.m, p.k, p.n), bytes(p, 2, 2), flops(p), Peak::BF16}, [&] {
        blas.gemm(stream,
                  {p.m, p.k, p.n, cuda::operand(y_view), cuda::operand(w_view), nullptr, 0, x.data(), p.k});
    });
    const Codes x_codes(stream, x_view);
    const Codes w_codes(stream, w_view);
    meter.measure({name + " y = x w' e4m3", by(p.m, p.n, p.k), bytes(p, 1, 1), flops(p), Peak::E4M3}, [&] {
        blas.gemm(stream,
                  {p.m, p.n, p.k, x_codes.operand(false), w_codes.operand(true), nullptr, 0, y.data(), p.n});
    });
}

// NF4 as it lies: any bytes are codes.
struct Nf4 {
    Nf4(const cuda::Stream& stream, std::size_t n, std::size_t k)
        : codes(random_bf16(stream, n * k / 4)),
          scales(random_f32(stream, n * k / 64)),
          weight{codes.data(), kernels::WeightType::NF4, n, k, scales.data(), 64} {}
    cuda::DeviceBuffer<cuda::BF16> codes;
    cuda::DeviceBuffer<float> scales;
    kernels::WeightView weight;
};
constexpr double kNf4Bytes = 0.5 + 4.0 / 64;

void measure_fused(Meter& meter, const Nf4& nf4, std::size_t n, std::size_t k, const std::string& name) {
    const cuda::Stream& stream = meter.stream();
    if (!cuda::nf4_matmul_supports(nf4.weight)) return;
    const cuda::DeviceBuffer<std::uint8_t> codes(cuda::nf4_tile_bytes(n, k));
    const cuda::DeviceBuffer<float> scales(n * k / 64);
    cuda::make_nf4_tiles(stream, nf4.weight, codes.data(), scales.data());
    const cuda::Nf4Tiles tiles{codes.data(), scales.data(), n, k};
    for (const std::size_t m :
         {std::size_t{1}, std::size_t{16}, std::size_t{64}, std::size_t{256}, std::size_t{1024}}) {
        if (meter.tiny() && m > 64) break;
        const Product p{"", m, n, k};
        const auto x = random_bf16(stream, m * k);
        const auto y = random_bf16(stream, m * n);
        meter.measure({name + " nf4_matmul", by(m, n, k), bytes(p, 2, kNf4Bytes), flops(p), Peak::BF16}, [&] {
            cuda::nf4_matmul(stream, view(x, m, k), tiles, view(y, m, n), kernels::Write::Overwrite);
        });
    }
}

void measure_adapter(Meter& meter, const Model& model) {
    const cuda::Stream& stream = meter.stream();
    const std::size_t m = model.rows(), n = model.ffn, k = model.hidden, r = model.rank;
    const auto a = random_f32(stream, r * k);
    const auto b = random_f32(stream, n * r);
    const auto border = random_bf16(stream, (n + r) * (k + r));
    const cuda::Panel panel{view(border, n + r, k + r), n, k, r};
    const cuda::PanelPart part{0, n, r, 0, 2.0f, a.data(), b.data()};
    const double values = static_cast<double>(r * (n + k));
    meter.measure({model.name + " fill_border", by(n, k, r), values * 6, 0, Peak::None},
                  [&] { cuda::fill_border(stream, panel, part); });
    const auto dy = random_bf16(stream, m * n);
    const auto s = random_bf16(stream, m * r);
    const auto ds = random_bf16(stream, m * r);
    const auto db = random_f32(stream, n * r);
    const cuda::DeviceBuffer<float> scratch(cuda::low_rank_scratch(m, n, r));
    const Product p{"", m, n, r};
    meter.measure({model.name + " low_rank_backward", by(m, n, r),
                   2 * static_cast<double>(m * n + 2 * m * r) + 10 * static_cast<double>(n * r), 2 * flops(p),
                   Peak::BF16},
                  [&] {
                      cuda::low_rank_backward(stream, panel, part, view(dy, m, n), view(s, m, r),
                                              view(ds, m, r), db.data(), scratch.data());
                  });
}

}  // namespace

void measure_products(Meter& meter, const Model& model) {
    for (const Product& p : products_of(model)) {
        const std::string name = model.name + " " + p.name;
        if (meter.wants(name + " y = x w'") || meter.wants(name + " dx = dy w") ||
            meter.wants(name + " y = x w' e4m3"))
            measure_product(meter, p, name);
    }
}

void measure_weights(Meter& meter, const Model& model) {
    const cuda::Stream& stream = meter.stream();
    const std::size_t n = 2 * model.ffn, k = model.hidden, m = model.rows();
    const auto values = static_cast<double>(n * k);
    const Nf4 nf4(stream, n, k);
    const auto w = random_bf16(stream, n * k);
    meter.measure({model.name + " dequantize nf4", by(n, k), values * (2 + kNf4Bytes), 0, Peak::None},
                  [&] { cuda::dequantize(stream, nf4.weight, view(w, n, k)); });
    meter.measure({model.name + " dequantize nf4 turned", by(n, k), values * (2 + kNf4Bytes), 0, Peak::None},
                  [&] { cuda::dequantize(stream, nf4.weight, view(w, k, n), true); });
    const Codes codes(stream, view(w, n, k));
    const Codes turned(stream, view(w, k, n));
    meter.measure({model.name + " quantize_e4m3_rows", by(n, k), values * 3, 0, Peak::None}, [&] {
        cuda::quantize_e4m3_rows(stream, view(w, n, k), codes.data(), codes.pitch(), codes.scales());
    });
    meter.measure({model.name + " quantize_e4m3_columns", by(n, k), values * 3, 0, Peak::None}, [&] {
        cuda::quantize_e4m3_columns(stream, view(w, n, k), turned.data(), turned.pitch(), turned.scales());
    });
    const auto x = random_bf16(stream, m * k);
    const Codes x_codes(stream, view(x, m, k));
    meter.measure(
        {model.name + " quantize_e4m3_rows", by(m, k), static_cast<double>(m * k) * 3, 0, Peak::None}, [&] {
            cuda::quantize_e4m3_rows(stream, view(x, m, k), x_codes.data(), x_codes.pitch(),
                                     x_codes.scales());
        });
    measure_fused(meter, nf4, n, k, model.name);
    measure_adapter(meter, model);
}

}  // namespace fedllm::bench
