#include "tests/bench/cuda/step_models.hpp"

#include <algorithm>

#include "client/model/manifests.hpp"
#include "common/base/philox.hpp"
#include "kernels/cuda/bf16.hpp"

namespace fedllm::bench {
namespace {

namespace model = client::model;
using kernels::WeightType;
using kernels::WeightView;

constexpr std::size_t kPattern = (1 << 20) - 3;  // odd: rows differ
constexpr std::size_t kStride = 4160;            // between windows, in elements: whole blocks of NF4
constexpr std::size_t kBlock = 64;               // of NF4

StepModel shaped(const char* name, std::size_t hidden, std::size_t layers, std::size_t heads,
                 std::size_t kv_heads, std::size_t head_size, std::size_t intermediate, std::size_t vocab,
                 bool tied, std::size_t rows, std::size_t tokens) {
    StepModel made;
    made.name = name;
    made.config.hidden = hidden;
    made.config.layers = layers;
    made.config.heads = heads;
    made.config.kv_heads = kv_heads;
    made.config.head_size = head_size;
    made.config.intermediate = intermediate;
    made.config.vocab = vocab;
    made.config.context = tokens;
    made.config.norm_epsilon = 1e-5F;
    made.config.rope_theta = 500000;
    made.config.tied_head = tied;
    made.rows = rows;
    made.tokens = tokens;
    for (const model::Projection& projection : model::projections(made.config))
        made.lora.target_modules.emplace_back(projection.name);
    return made;
}

struct Shape {
    std::size_t rows, cols;
    std::size_t elements() const { return rows * cols; }
};
Shape shape_of(const model::ModelTensor& tensor) {
    const auto& shape = tensor.spec.shape;
    return shape.size() == 2 ? Shape{shape[0], shape[1]} : Shape{1, shape[0]};
}

// A short random pattern, again and again.
template <class T, class Draw>
std::vector<T> repeated(std::size_t count, const Draw& draw) {
    std::vector<T> made(count);
    const std::size_t drawn = std::min(count, kPattern);
    for (std::size_t i = 0; i < drawn; ++i) made[i] = draw();
    for (std::size_t i = drawn; i < count; i += std::min(drawn, count - i))
        std::copy_n(made.begin(), std::min(drawn, count - i), made.begin() + static_cast<std::ptrdiff_t>(i));
    return made;
}

}  // namespace

StepModel llama_8b() { return shaped("Llama-3.1-8B", 4096, 32, 32, 8, 128, 14336, 128256, false, 4, 2048); }
StepModel llama_1b() { return shaped("Llama-3.2-1B", 2048, 16, 32, 8, 64, 8192, 128256, true, 4, 2048); }
StepModel smollm2_135m() { return shaped("SmolLM2-135M", 576, 30, 9, 3, 64, 1536, 49152, true, 8, 512); }
StepModel tiny_model() { return shaped("tiny", 64, 4, 4, 2, 16, 128, 144, true, 2, 24); }

double StepModel::operations() const {
    const auto m = static_cast<double>(step_tokens());
    auto weights = static_cast<double>(config.vocab * config.hidden);
    double adapters = 0;
    for (const auto& p : model::projections(config)) {
        weights += static_cast<double>(config.layers * p.out * p.in);
        adapters += static_cast<double>(config.layers * lora.rank * (p.out + p.in));
    }
    const double attention = 7 * m * static_cast<double>(tokens * config.query_width() * config.layers);
    return 4 * m * weights + 6 * m * adapters + attention;
}

tensor::ParamSet StepModel::params() const {
    return model::initial_lora(model::lora_manifest(config, lora).value(), 1);
}

RandomBase::RandomBase(const StepModel& model, WeightType linear, kernels::Operands operands) {
    const std::vector<model::ModelTensor> tensors = model::model_tensors(model.config);
    std::size_t plain = 0, packed = 0;
    for (const model::ModelTensor& tensor : tensors) {
        const bool codes = model::is_linear(tensor.part) && linear != WeightType::BF16;
        std::size_t& most = codes ? packed : plain;
        most = std::max(most, shape_of(tensor).elements());
    }
    const std::size_t room = tensors.size() * kStride;
    Rng rng(1, "base");
    values_ = repeated<std::uint16_t>(
        plain + room, [&] { return kernels::cuda::narrow(rng.uniform(-0.035F, 0.035F)).bits; });
    if (packed > 0) {
        codes_ = repeated<std::uint64_t>((packed + room) / 16 + 1, [&] { return rng.next_u64(); });
        scales_ = repeated<float>((packed + room) / kBlock + 1, [&] { return rng.uniform(0.02F, 0.04F); });
    }
    ones_.assign(model.config.hidden, 1.0F);
    std::vector<WeightView> views;
    for (const model::ModelTensor& tensor : tensors) {
        const Shape shape = shape_of(tensor);
        const WeightType type = model::is_norm(tensor.part)     ? WeightType::F32
                                : model::is_linear(tensor.part) ? linear
                                                                : WeightType::BF16;
        views.push_back(window(shape.rows, shape.cols, type));
    }
    weights_ = model::arrange(model.config, views);
    for (auto& layer : weights_.layers) {
        for (auto& part : layer) part.operands = operands;
    }
    weights_.at(model::kHead).operands = operands;
}

WeightView RandomBase::window(std::size_t rows, std::size_t cols, WeightType type) {
    WeightView view{ones_.data(), type, rows, cols};
    if (type == WeightType::F32) return view;
    const std::size_t first = kStride * next_++;
    if (type == WeightType::BF16) {
        view.data = values_.data() + first;
    } else {
        view.data = reinterpret_cast<const unsigned char*>(codes_.data()) + first / 2;
        view.scales = scales_.data() + first / kBlock;
        view.block = kBlock;
    }
    return view;
}

RandomBatch::RandomBatch(const StepModel& model) : rows(model.rows), tokens_per_row(model.tokens) {
    Rng rng(1, "batch");
    for (std::size_t i = 0; i < model.step_tokens(); ++i) {
        tokens.push_back(static_cast<std::int32_t>(rng.below(model.config.vocab)));
        targets.push_back(static_cast<std::int32_t>(rng.below(model.config.vocab)));
        positions.push_back(static_cast<std::int32_t>(i % model.tokens));
        first_key.push_back(0);
    }
}

}  // namespace fedllm::bench
