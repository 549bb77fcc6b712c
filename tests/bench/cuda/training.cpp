#include <cmath>
#include <vector>

#include "kernels/adamw/op_cuda.hpp"
#include "kernels/attention/op_cuda.hpp"
#include "kernels/cross_entropy/op_cuda.hpp"
#include "tests/bench/cuda/models.hpp"

namespace fedllm::bench {
namespace {

// A quarter of the step's rows at a time: the logits of all would not fit beside the rest.
void measure_loss(Meter& meter, const Model& model) {
    const cuda::Stream& stream = meter.stream();
    const std::size_t m = model.rows() / 4, v = model.vocabulary;
    const auto logits = random_bf16(stream, m * v);
    std::vector<std::int32_t> host(m);
    for (std::size_t i = 0; i < m; ++i) host[i] = static_cast<std::int32_t>(i * 7919 % v);
    const cuda::DeviceBuffer<std::int32_t> targets(m);
    cuda::copy_to_device(stream, targets.data(), host.data(), targets.bytes());
    stream.synchronize();
    const cuda::DeviceBuffer<float> losses(m);
    const auto scale = random_f32(stream, 1);
    const auto pass = 2 * static_cast<double>(m * v);
    meter.measure({model.name + " cross_entropy", by(m, v), pass, 0, Peak::None}, [&] {
        cuda::cross_entropy(stream, view(logits, m, v), targets.data(), losses.data(), nullptr);
    });
    meter.measure({model.name + " cross_entropy + gradient", by(m, v), 2 * pass, 0, Peak::None}, [&] {
        cuda::cross_entropy(stream, view(logits, m, v), targets.data(), losses.data(), scale.data());
    });
}

void measure_optimiser(Meter& meter, const Model& model) {
    const cuda::Stream& stream = meter.stream();
    const std::size_t count = model.adapter_values;
    const auto values = static_cast<double>(count);
    const auto gradients = random_f32(stream, count), params = random_f32(stream, count),
               first = random_f32(stream, count), second = random_f32(stream, count);
    const cuda::AdamWStep host = cuda::make_adamw_step({}, 1, 1.0);
    const cuda::DeviceBuffer<cuda::AdamWStep> step(1);
    cuda::copy_to_device(stream, step.data(), &host, sizeof host);
    stream.synchronize();
    const cuda::DeviceBuffer<double> scratch(cuda::kNormBlocks);
    meter.measure({model.name + " clip_gradients", std::to_string(count), values * 4, 0, Peak::None}, [&] {
        cuda::clip_gradients(stream, gradients.data(), count, scratch.data(), step.data());
    });
    meter.measure({model.name + " adamw", std::to_string(count), values * 28, 0, Peak::None}, [&] {
        cuda::adamw(stream, step.data(), count, gradients.data(), params.data(), first.data(), second.data());
    });
}

}  // namespace

void measure_attention(Meter& meter, const Model& model) {
    const cuda::Stream& stream = meter.stream();
    const std::size_t m = model.rows(), q_cols = model.q(), kv_cols = model.kv(),
                      width = q_cols + 2 * kv_cols;
    const kernels::AttentionShape shape{
        model.batch,    model.tokens,    model.heads,
        model.kv_heads, model.head_size, 1.0f / std::sqrt(static_cast<float>(model.head_size))};
    const auto qkv = random_bf16(stream, m * width), dqkv = random_bf16(stream, m * width);
    const auto out = random_bf16(stream, m * q_cols), dout = random_bf16(stream, m * q_cols);
    const cuda::DeviceBuffer<std::int32_t> first_key(m);
    cuda::fill_bytes(stream, first_key.data(), 0, first_key.bytes());
    const cuda::DeviceBuffer<float> log_sum_exp(m * model.heads);
    const cuda::DeviceBuffer<unsigned char> scratch(cuda::attention_scratch(shape));
    const auto part = [&](const cuda::DeviceBuffer<cuda::BF16>& of, std::size_t first, std::size_t cols) {
        return cuda::DeviceMatrix{of.data() + first, m, cols, width};
    };
    const auto q = part(qkv, 0, q_cols), k = part(qkv, q_cols, kv_cols),
               v = part(qkv, q_cols + kv_cols, kv_cols);
    // Two products over half of the (T,T) square; five in the backward pass.
    const double flops =
        2 * static_cast<double>(m) * static_cast<double>(model.tokens) * static_cast<double>(q_cols);
    const double bytes = 2 * static_cast<double>(m * (width + q_cols));
    const std::string text =
        std::to_string(model.batch) + " x " + by(model.tokens, model.heads, model.head_size);
    meter.measure({model.name + " attention_forward", text, bytes, flops, Peak::BF16}, [&] {
        cuda::attention_forward(stream, shape, first_key.data(), q, k, v, view(out, m, q_cols),
                                log_sum_exp.data());
    });
    if (!meter.wants(model.name + " attention_backward")) return;
    cuda::attention_forward(stream, shape, first_key.data(), q, k, v, view(out, m, q_cols),
                            log_sum_exp.data());
    meter.measure({model.name + " attention_backward", text, 2 * bytes, 2.5 * flops, Peak::BF16}, [&] {
        cuda::attention_backward(stream, shape, first_key.data(), q, k, v, view(out, m, q_cols),
                                 log_sum_exp.data(), view(dout, m, q_cols), scratch.data(),
                                 part(dqkv, 0, q_cols), part(dqkv, q_cols, kv_cols),
                                 part(dqkv, q_cols + kv_cols, kv_cols));
    });
}

void measure_training(Meter& meter, const Model& model) {
    measure_loss(meter, model);
    measure_optimiser(meter, model);
}

}  // namespace fedllm::bench
