#include <vector>

#include "kernels/embedding/op_cuda.hpp"
#include "kernels/gelu/op_cuda.hpp"
#include "kernels/layer_norm/op_cuda.hpp"
#include "kernels/matmul/op_cuda.hpp"
#include "kernels/rms_norm/op_cuda.hpp"
#include "kernels/rope/op_cuda.hpp"
#include "kernels/swiglu/op_cuda.hpp"
#include "tests/bench/cuda/models.hpp"

namespace fedllm::bench {
namespace {

using kernels::Write;

cuda::DeviceBuffer<std::int32_t> whole_numbers(const cuda::Stream& stream, std::size_t count,
                                               std::size_t step, std::size_t below) {
    std::vector<std::int32_t> host(count);
    for (std::size_t i = 0; i < count; ++i) host[i] = static_cast<std::int32_t>(i * step % below);
    cuda::DeviceBuffer<std::int32_t> made(count);
    cuda::copy_to_device(stream, made.data(), host.data(), made.bytes());
    stream.synchronize();
    return made;
}

// One bf16 matrix read or written is one pass.
Work passes(const Model& model, const char* name, std::size_t rows, std::size_t cols, int count) {
    return {model.name + " " + name, by(rows, cols), 2.0 * count * static_cast<double>(rows * cols), 0,
            Peak::None};
}

void measure_norms(Meter& meter, const Model& model) {
    const cuda::Stream& stream = meter.stream();
    const std::size_t m = model.rows(), c = model.hidden;
    const auto x = random_bf16(stream, m * c), add = random_bf16(stream, m * c),
               y = random_bf16(stream, m * c);
    const auto weight = random_f32(stream, c), bias = random_f32(stream, c), rstd = random_f32(stream, m),
               mean = random_f32(stream, m);
    const cuda::RmsNorm norm{weight.data(), 1e-5f, 1};
    const auto vx = view(x, m, c), vadd = view(add, m, c), vy = view(y, m, c);
    meter.measure(passes(model, "rms_norm_forward", m, c, 2),
                  [&] { cuda::rms_norm_forward(stream, norm, vx, {}, vy, rstd.data()); });
    meter.measure(passes(model, "rms_norm_forward + residual", m, c, 4),
                  [&] { cuda::rms_norm_forward(stream, norm, vx, vadd, vy, rstd.data()); });
    meter.measure(passes(model, "rms_norm_backward +=", m, c, 4), [&] {
        cuda::rms_norm_backward(stream, norm, vy, vx, rstd.data(), vadd, Write::Accumulate, nullptr, nullptr);
    });
    const cuda::DeviceBuffer<float> scratch(cuda::rms_norm_scratch(m, c, 1));
    meter.measure(passes(model, "rms_norm_backward += dweight", m, c, 4), [&] {
        cuda::rms_norm_backward(stream, norm, vy, vx, rstd.data(), vadd, Write::Accumulate, bias.data(),
                                scratch.data());
    });
    meter.measure(passes(model, "layer_norm_forward", m, c, 2), [&] {
        cuda::layer_norm_forward(stream, vx, weight.data(), bias.data(), 1e-5f, vy, rstd.data(), mean.data());
    });
    meter.measure(passes(model, "layer_norm_backward +=", m, c, 4), [&] {
        cuda::layer_norm_backward(stream, vy, vx, weight.data(), rstd.data(), mean.data(), vadd,
                                  Write::Accumulate, nullptr, nullptr, nullptr);
    });
}

void measure_rope(Meter& meter, const Model& model) {
    const cuda::Stream& stream = meter.stream();
    const std::size_t m = model.rows(), heads = model.heads + model.kv_heads, d = model.head_size;
    const auto x = random_bf16(stream, m * heads * d);
    const auto positions = whole_numbers(stream, m, 1, model.tokens);
    const auto cosine = random_f32(stream, model.tokens * d / 2),
               sine = random_f32(stream, model.tokens * d / 2);
    meter.measure(passes(model, "rope", m, heads * d, 2), [&] {
        cuda::rope(stream, view(x, m, heads * d), heads, d, positions.data(), cosine.data(), sine.data(),
                   kernels::Turn::Forward);
    });
}

void measure_activations(Meter& meter, const Model& model) {
    const cuda::Stream& stream = meter.stream();
    const std::size_t m = model.rows(), f = model.ffn;
    const auto both = random_bf16(stream, m * 2 * f), out = random_bf16(stream, m * f);
    const cuda::DeviceMatrix gate{both.data(), m, f, 2 * f}, up{both.data() + f, m, f, 2 * f};
    const auto vout = view(out, m, f);
    meter.measure(passes(model, "swiglu_forward", m, f, 3),
                  [&] { cuda::swiglu_forward(stream, gate, up, vout); });
    meter.measure(passes(model, "swiglu_backward", m, f, 5),
                  [&] { cuda::swiglu_backward(stream, vout, gate, up, {}); });
    meter.measure(passes(model, "swiglu_backward + act", m, f, 6),
                  [&] { cuda::swiglu_backward(stream, vout, gate, up, vout); });
    meter.measure(passes(model, "gelu_forward", m, f, 2), [&] { cuda::gelu_forward(stream, gate, vout); });
    meter.measure(passes(model, "gelu_backward", m, f, 3), [&] { cuda::gelu_backward(stream, vout, gate); });
}

void measure_embedding(Meter& meter, const Model& model) {
    const cuda::Stream& stream = meter.stream();
    const std::size_t m = model.rows(), c = model.hidden, v = model.vocabulary;
    const auto table = random_bf16(stream, v * c), x = random_bf16(stream, m * c),
               y = random_bf16(stream, m * c);
    const auto tokens = whole_numbers(stream, m, 7919, v), places = whole_numbers(stream, m, 7919, m);
    const kernels::WeightView weight{table.data(), kernels::WeightType::BF16, v, c};
    meter.measure(passes(model, "embedding_forward", m, c, 2), [&] {
        cuda::embedding_forward(stream, tokens.data(), weight, view(y, m, c), Write::Overwrite);
    });
    meter.measure(passes(model, "gather_rows", m, c, 2),
                  [&] { cuda::gather_rows(stream, view(x, m, c), places.data(), view(y, m, c)); });
    meter.measure(passes(model, "scatter_rows", m, c, 2),
                  [&] { cuda::scatter_rows(stream, view(x, m, c), places.data(), view(y, m, c)); });
}

void measure_bias(Meter& meter, const Model& model) {
    const cuda::Stream& stream = meter.stream();
    const std::size_t m = model.rows(), n = model.q() + 2 * model.kv();
    const auto y = random_bf16(stream, m * n);
    const auto bias = random_f32(stream, n), dbias = random_f32(stream, n);
    const cuda::DeviceBuffer<float> scratch(cuda::bias_scratch(m, n));
    meter.measure(passes(model, "add_bias", m, n, 2),
                  [&] { cuda::add_bias(stream, bias.data(), view(y, m, n)); });
    meter.measure(passes(model, "add_bias_backward", m, n, 1),
                  [&] { cuda::add_bias_backward(stream, view(y, m, n), dbias.data(), scratch.data()); });
}

}  // namespace

void measure_rows(Meter& meter, const Model& model) {
    measure_norms(meter, model);
    measure_rope(meter, model);
    measure_activations(meter, model);
    measure_embedding(meter, model);
    measure_bias(meter, model);
}

}  // namespace fedllm::bench
