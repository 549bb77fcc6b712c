// A whole training step (forward, backward, clipping, AdamW) beside the machine's FMA limit.
//   bench_step [seconds per case [threads [part of a case's name]]]
// The share of the limit is in processor time and the limit is measured before each case: see
// machine_limits.hpp. A case runs in a process of its own; its peak memory is that of the steps, base
// included.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "client/engine/transformer.hpp"
#include "client/model/manifests.hpp"
#include "common/base/clock.hpp"
#include "common/base/philox.hpp"
#include "common/tensor/base_spec.hpp"
#include "common/tensor/dtype.hpp"
#include "kernels/adamw/op.hpp"
#include "kernels/int8_matmul/op.hpp"
#include "kernels/quantize/op.hpp"
#include "tests/bench/machine_limits.hpp"

namespace {

using namespace fedllm;
using client::engine::BatchView;
using client::engine::Network;
using client::engine::Transformer;
namespace model = client::model;

struct Case {
    const char* name;
    std::size_t hidden, layers, heads, kv_heads, intermediate, vocab, rows, tokens;
    std::uint32_t rank;                                   // 0: full-parameter training
    kernels::WeightType base = kernels::WeightType::F32;  // of the linear layers
    tensor::BaseCompute compute = tensor::BaseCompute::Float;
};

const std::vector<Case> kCases{
    {"small C256 L6, LoRA r8", 256, 6, 8, 4, 704, 8192, 8, 256, 8},
    {"small C256 L6, full", 256, 6, 8, 4, 704, 8192, 8, 256, 0},
    {"SmolLM2-135M, LoRA r16, f32 base", 576, 30, 9, 3, 1536, 49152, 4, 256, 16},
    {"SmolLM2-135M, LoRA r16, bf16 base", 576, 30, 9, 3, 1536, 49152, 4, 256, 16, kernels::WeightType::BF16},
    {"SmolLM2-135M, LoRA r16, int8 base", 576, 30, 9, 3, 1536, 49152, 4, 256, 16, kernels::WeightType::Int8},
    {"SmolLM2-135M, LoRA r16, NF4 base", 576, 30, 9, 3, 1536, 49152, 4, 256, 16, kernels::WeightType::NF4},
    {"SmolLM2-135M, LoRA r16, bf16 compute, bf16 base", 576, 30, 9, 3, 1536, 49152, 4, 256, 16,
     kernels::WeightType::BF16, tensor::BaseCompute::Bf16},
    {"SmolLM2-135M, LoRA r16, bf16 compute, NF4 base", 576, 30, 9, 3, 1536, 49152, 4, 256, 16,
     kernels::WeightType::NF4, tensor::BaseCompute::Bf16},
    {"SmolLM2-135M, LoRA r16, int8 compute", 576, 30, 9, 3, 1536, 49152, 4, 256, 16,
     kernels::WeightType::Int8, tensor::BaseCompute::Int8},
};

model::ModelConfig config_of(const Case& c) {
    model::ModelConfig config;
    config.hidden = c.hidden;
    config.layers = c.layers;
    config.heads = c.heads;
    config.kv_heads = c.kv_heads;
    config.head_size = c.hidden / c.heads;
    config.intermediate = c.intermediate;
    config.vocab = c.vocab;
    config.context = c.tokens;
    config.tied_head = true;
    return config;
}

struct Batch {
    std::vector<std::int32_t> tokens, targets, positions, first_key;

    explicit Batch(const Case& c) {
        Rng rng(1, "bench");
        for (std::size_t i = 0; i < c.rows * c.tokens; ++i) {
            tokens.push_back(static_cast<std::int32_t>(rng.below(c.vocab)));
            targets.push_back(static_cast<std::int32_t>(rng.below(c.vocab)));
            positions.push_back(static_cast<std::int32_t>(i % c.tokens));
            first_key.push_back(0);
        }
    }
};

// Multiplications and additions of one step. Products: 2 each forward and for d(input), 2 more for d(weight)
// if the weight is trained, an adapter's own both ways. Causal attention: half of T x T, 2 products forward,
// 5 backward.
double operations(const Case& c, const model::ModelConfig& config) {
    const double m = static_cast<double>(c.rows * c.tokens);
    double weights = static_cast<double>(c.vocab * c.hidden);
    double adapters = 0;
    for (const auto& p : model::projections(config)) {
        weights += static_cast<double>(config.layers * p.out * p.in);
        adapters += static_cast<double>(config.layers * c.rank * (p.out + p.in));
    }
    const double attention = 7.0 * m * static_cast<double>(c.tokens * config.query_width() * config.layers);
    return 2 * m * weights * (c.rank == 0 ? 3 : 2) + 6 * m * adapters + attention;
}

// A frozen base of random weights: linear layers as the case says, the embedding in bf16 unless all is f32.
struct Base {
    std::vector<std::vector<std::uint8_t>> bytes;
    std::vector<std::vector<float>> scales;
    std::vector<std::unique_ptr<kernels::Int8Weight>> integers;
    model::ModelWeights weights;
};

kernels::WeightView stored(kernels::ThreadPool& pool, Base& base, const kernels::WeightView& from,
                           kernels::WeightType type) {
    using kernels::WeightType;
    const std::size_t count = from.rows * from.cols;
    const auto* values = static_cast<const float*>(from.data);
    auto& bytes = base.bytes.emplace_back();
    auto& scales = base.scales.emplace_back();
    kernels::WeightView view{nullptr, type, from.rows, from.cols};
    if (type == WeightType::F32) {
        bytes.resize(count * sizeof(float));
        std::memcpy(bytes.data(), values, bytes.size());
    } else if (type == WeightType::BF16) {
        bytes.resize(count * sizeof(std::uint16_t));
        auto* to = reinterpret_cast<std::uint16_t*>(bytes.data());
        std::transform(values, values + count, to, tensor::f32_to_bf16);
    } else if (type == WeightType::Int8) {
        bytes.resize(count);
        scales.resize(from.rows);
        kernels::quantize_int8(pool, from, {reinterpret_cast<std::int8_t*>(bytes.data()), count}, scales);
        for (float& scale : scales) scale *= kernels::kInt8Step;
    } else {
        bytes.resize(kernels::four_bit_bytes(count));
        scales.resize(kernels::blocks_of(count, view.block));
        kernels::quantize_four_bit(pool, from, type, view.block, bytes, scales);
    }
    view.data = bytes.data();
    view.scales = scales.empty() ? nullptr : scales.data();
    return view;
}

// As BaseModel does.
void pack_integers(kernels::ThreadPool& pool, Base& base) {
    for (auto& layer : base.weights.layers) {
        for (std::size_t part = 0; part < layer.size(); ++part) {
            if (!model::is_linear(static_cast<model::Part>(part)) || layer[part].weight.data == nullptr)
                continue;
            base.integers.push_back(
                std::make_unique<kernels::Int8Weight>(kernels::pack_int8(pool, layer[part].weight)));
            layer[part].integers = base.integers.back().get();
        }
    }
    base.integers.push_back(std::make_unique<kernels::Int8Weight>(
        kernels::pack_int8(pool, base.weights.at(model::kHead).weight, kernels::Int8Use::Forward)));
    base.weights.at(model::kHead).integers = base.integers.back().get();
}

void round_operands(Base& base) {
    for (auto& layer : base.weights.layers) {
        for (auto& part : layer) part.operands = kernels::Operands::Bf16;
    }
    base.weights.at(model::kHead).operands = kernels::Operands::Bf16;
}

Base base_of(const Case& c, const model::ModelConfig& config, kernels::ThreadPool& pool) {
    using kernels::WeightType;
    Base base;
    if (c.rank == 0) return base;
    const tensor::ParamSet full = model::initial_full(config, 1);
    std::vector<kernels::WeightView> views;
    for (std::size_t i = 0; i < full.manifest().tensors().size(); ++i) {
        const tensor::TensorSpec& spec = full.manifest().tensors()[i];
        const bool vector = spec.shape.size() == 1;
        const kernels::WeightView from{full.values().data() + full.manifest().offset(i), WeightType::F32,
                                       vector ? 1 : spec.shape[0], spec.shape.back()};
        const bool linear = spec.name.find("_proj") != std::string::npos;
        const WeightType table = c.base == WeightType::F32 ? WeightType::F32 : WeightType::BF16;
        views.push_back(stored(pool, base, from, vector ? WeightType::F32 : linear ? c.base : table));
    }
    base.weights = model::arrange(config, views);
    if (c.compute == tensor::BaseCompute::Int8) pack_integers(pool, base);
    if (c.compute == tensor::BaseCompute::Bf16) round_operands(base);
    return base;
}

// Forgets the peak so far, where the kernel lets us, so that making the weights does not count.
void forget_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }
double peak_mib() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with("VmHWM:")) return std::atof(line.c_str() + 6) / 1024.0;
    }
    return 0.0;
}

double median(std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                     values.end());
    return values[values.size() / 2];
}

void run(const Case& c, kernels::ThreadPool& pool, double seconds) {
    const model::ModelConfig config = config_of(c);
    const Base base = base_of(c, config, pool);
    tensor::ParamSet params;
    if (c.rank == 0) {
        params = model::initial_full(config, 1);
    } else {
        const tensor::LoraSpec spec{
            .rank = c.rank,
            .target_modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}};
        params = model::initial_lora(model::lora_manifest(config, spec).value(), 1);
    }
    auto network = Network::create(config, base.weights, params.manifest(), 2.0).value();
    auto transformer = Transformer::create(pool, std::move(network), {c.rows, c.tokens}).value();
    tensor::ParamSet gradients(params.manifest());
    std::vector<float> first(params.values().size()), second(params.values().size());
    const Batch batch(c);
    const BatchView view{c.rows, c.tokens, batch.tokens, batch.targets, batch.positions, batch.first_key};
    const float scale = 1.0F / static_cast<float>(c.rows * c.tokens);
    const double limit = bench::fma_flops_per_core_second(pool);
    std::vector<double> times, shares;
    forget_peak();
    const double end = monotonic_seconds() + seconds;
    for (std::uint64_t step = 1; step < 4 || monotonic_seconds() < end; ++step) {
        const double started = monotonic_seconds();
        const double cores = bench::core_seconds();
        std::fill(gradients.values().begin(), gradients.values().end(), 0.0F);
        (void)transformer.forward_backward(view, params, gradients, scale).value();
        const double norm = kernels::l2_norm(pool, gradients.values());
        const auto clip = static_cast<float>(std::min(1.0, 1.0 / norm));
        kernels::adamw(pool, {}, step, clip, gradients.values(), params.values(), first, second);
        if (step == 1) continue;  // touches the memory for the first time
        times.push_back(monotonic_seconds() - started);
        shares.push_back(operations(c, config) / (bench::core_seconds() - cores) / limit);
    }
    const double time = median(times);
    std::printf(
        "%-50s %8.1f ms/step %7.0f tokens/s %7.1f GFLOP/s %4.0f %% of FMA per core second %6.0f MiB peak\n",
        c.name, 1e3 * time, static_cast<double>(c.rows * c.tokens) / time, operations(c, config) / time / 1e9,
        100 * median(shares), peak_mib());
}

}  // namespace

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 3.0;
    const auto threads = argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 0;
    for (const Case& c : kCases) {
        if (argc > 3 && std::string(c.name).find(argv[3]) == std::string::npos) continue;
        if (const pid_t child = fork(); child == 0) {
            kernels::ThreadPool pool(threads);
            run(c, pool, seconds);
            return 0;
        } else {
            int status = 0;
            if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) return 1;
        }
    }
}
