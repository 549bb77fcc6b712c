#include "client/model/base_model.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <set>

#include "client/model/manifests.hpp"
#include "common/crypto/sha256.hpp"
#include "common/formats/json.hpp"
#include "kernels/int8_matmul/op.hpp"
#include "kernels/quantize/op.hpp"

namespace fedllm::client::model {

using formats::TensorInfo;
using kernels::WeightType;
using kernels::WeightView;
using tensor::DType;
using tensor::TensorSpec;

namespace {

bool is_aligned(const TensorInfo& tensor) {
    return reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) % tensor::size_of(tensor.dtype) == 0;
}

// Buffers that old exporters saved: RoPE's frequencies, causal masks.
bool is_harmless(const Family& family, std::string_view name) {
    return std::any_of(family.buffers.begin(), family.buffers.end(),
                       [name](std::string_view end) { return name.ends_with(end); });
}

// (in, out) as (out, in), elements of any size.
void transpose(std::span<const std::byte> from, std::size_t rows, std::size_t cols, std::byte* to) {
    const std::size_t width = from.size() / (rows * cols);
    for (std::size_t c = 0; c < cols; ++c) {
        for (std::size_t r = 0; r < rows; ++r, to += width) {
            std::memcpy(to, from.data() + (r * cols + c) * width, width);
        }
    }
}

// Whether the file has the matrix as (in, out), which the views have as (out, in).
bool is_turned(const Family& family, const ModelTensor& place) {
    return family.storage == Storage::InOut && is_linear(place.part) && !place.is_bias;
}

// One line that two equal computations share: floats in their shortest exact decimal.
std::string canonical_text(const ModelConfig& config) {
    std::string text;
    const auto add = [&](std::string_view key, auto value) {
        char digits[40];
        const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
        text.append(key).append("=").append(digits, end).append(";");
    };
    add("hidden", config.hidden);
    add("layers", config.layers);
    add("heads", config.heads);
    add("kv_heads", config.kv_heads);
    add("head_size", config.head_size);
    add("intermediate", config.intermediate);
    add("vocab", config.vocab);
    add("norm_epsilon", config.norm_epsilon);
    add("rope_theta", config.rope_theta);
    add("tied_head", int{config.tied_head});
    add("attention_bias", int{config.attention_bias});
    add("mlp_bias", int{config.mlp_bias});
    // What came later is named only where it matters: the fingerprints of plain models stay.
    if (config.family->layer.data() != llama().layer.data() && config.family->model_type != "mistral") {
        text.append("family=").append(config.family->model_type).append(";");
    }
    if (const RopeScaling& rope = config.rope_scaling; rope.kind != RopeScaling::Kind::None) {
        add("rope_scaling", static_cast<int>(rope.kind));
        add("rope_factor", rope.factor);
        add("rope_low", rope.low_frequency_factor);
        add("rope_high", rope.high_frequency_factor);
        add("rope_original", rope.original_context);
    }
    if (config.window != 0) {
        add("window", config.window);
        add("window_from", config.window_from);
    }
    return text;
}

// Up to 64 blocks of 64 bytes at even distances, the first and the last bytes among them.
void hash_sample(crypto::Sha256& hash, std::span<const std::byte> bytes) {
    constexpr std::size_t kBlock = 64;
    constexpr std::size_t kBlocks = 64;
    if (bytes.size() <= kBlock * kBlocks) return hash.update(bytes);
    const std::size_t last = bytes.size() - kBlock;
    for (std::size_t i = 0; i < kBlocks; ++i) {
        const std::size_t at = last / (kBlocks - 1) * i + last % (kBlocks - 1) * i / (kBlocks - 1);
        hash.update(bytes.subspan(at, kBlock));
    }
}

}  // namespace

// Finds, checks and, where needed, converts every tensor of model_tensors().
class WeightLoader {
public:
    WeightLoader(BaseModel& model, const tensor::BaseSpec& base)
        : model_(model), family_(*model.config_.family), base_(base) {}

    Result<void> load() {
        for (const ModelTensor& place : model_tensors(model_.config_)) {
            FEDLLM_TRY(WeightView view, load(place));
            if (is_linear(place.part) && !place.is_bias) {
                FEDLLM_TRY(view, as_wanted(view));
            }
            model_.views_.push_back(view);
        }
        FEDLLM_TRY_VOID(check_copy_of_tied_head());
        FEDLLM_TRY_VOID(check_nothing_is_left());
        model_.weights_ = arrange(model_.config_, model_.views_);
        if (base_.compute == tensor::BaseCompute::Int8) return pack_integers();
        if (base_.compute == tensor::BaseCompute::Bf16) round_operands(kernels::Operands::Bf16);
        if (base_.compute == tensor::BaseCompute::Fp8) round_operands(kernels::Operands::E4m3);
        return {};
    }

private:
    Error error(const TensorInfo& tensor, const std::string& what) const {
        return make_error(Errc::InvalidModel, model_.files_.file_of(tensor.name) + ": tensor " +
                                                  formats::describe(tensor) + ": " + what);
    }

    Result<WeightView> load(const ModelTensor& place) {
        const TensorInfo* const tensor = find(place.spec.name);
        if (tensor && is_quantized(model_.files_, tensor->name)) return quantized(place, *tensor);
        return plain(place);
    }

    Result<WeightView> plain(const ModelTensor& place) {
        FEDLLM_TRY(const TensorInfo* const tensor, take(place));
        if (!tensor) {
            model_.used_.emplace_back();
            return zeros(place.spec.shape[0]);
        }
        model_.used_.push_back({tensor});
        return view_of(place, *tensor);
    }

    // The head may come quantised, but is never made so. bitsandbytes turns Conv1D weights to (out, in)
    // first.
    Result<WeightView> quantized(const ModelTensor& place, const TensorInfo& tensor) {
        if (place.is_bias || !(is_linear(place.part) || place.part == kHead)) {
            return error(tensor, "is quantised; only linear layers may be");
        }
        const auto& shape = place.spec.shape;
        const bool turned = is_turned(family_, place);
        FEDLLM_TRY(QuantizedWeight weight,
                   read_quantized(model_.files_, tensor.name, shape[turned ? 1 : 0], shape[turned ? 0 : 1]));
        for (const TensorInfo* one : weight.tensors) seen_.insert(one->name);
        model_.used_.push_back(std::move(weight.tensors));
        model_.held_.push_back(std::move(weight.held));
        return model_.held_.back().view;
    }

    // The weight last loaded, held as base_ says.
    Result<WeightView> as_wanted(const WeightView& view) {
        if (base_.storage == tensor::BaseStorage::AsStored || view.type == held_type(base_.storage))
            return view;
        const TensorInfo& tensor = *model_.used_.back().front();
        if (view.type != WeightType::F32 && view.type != WeightType::BF16) {
            return error(
                tensor,
                "is quantised already and cannot be held in another type; use base.storage: as_stored");
        }
        auto held = hold_as(pool(), view, base_.storage);
        if (!held) return error(tensor, held.error().message);
        release_pages(tensor.bytes);
        if (!model_.owned_.empty() && model_.owned_.back().get() == view.data) model_.owned_.pop_back();
        model_.held_.push_back(std::move(*held));
        return model_.held_.back().view;
    }

    void round_operands(kernels::Operands to) {
        for (const ModelTensor& place : model_tensors(model_.config_)) {
            if (!is_linear(place.part)) continue;
            model_.weights_.at(place.part, place.layer).operands = to;
        }
        model_.weights_.at(kHead).operands = to;  // a tied one too
    }

    // Once all is known to be in order. What was packed is not read again, so its pages are let go.
    Result<void> pack_integers() {
        const auto places = model_tensors(model_.config_);
        const Part head = model_.config_.tied_head ? kEmbedding : kHead;
        for (std::size_t i = 0; i < places.size(); ++i) {
            const bool is_head = places[i].part == head;
            if (!(is_linear(places[i].part) || is_head) || places[i].is_bias) continue;
            const auto use = is_head ? kernels::Int8Use::Forward : kernels::Int8Use::Both;
            const WeightView& view = model_.views_[i];
            const TensorInfo& tensor = *model_.used_[i].front();
            if (!kernels::fits_int8_matmul(view.rows, view.cols, use)) {
                return error(tensor, "is too long on a side for base.compute: int8, which adds up to " +
                                         std::to_string(kernels::kInt8DepthMax) + " products");
            }
            auto packed = std::make_unique<kernels::Int8Weight>(kernels::pack_int8(pool(), view, use));
            if (!all_finite(packed->scales)) {
                return error(tensor, "has a value that is not finite and cannot be quantised");
            }
            if (!is_head) release_pages(tensor.bytes);
            model_.weights_.at(is_head ? kHead : places[i].part, places[i].layer).integers = packed.get();
            model_.integers_.push_back(std::move(packed));
        }
        return {};
    }

    kernels::ThreadPool& pool() {
        if (!pool_) pool_.emplace();
        return *pool_;
    }

    // Under its name, or under the one it has where only the inner model was saved.
    const TensorInfo* find(std::string_view name) const {
        if (const TensorInfo* tensor = model_.files_.find(name)) return tensor;
        if (!name.starts_with(family_.prefix())) return nullptr;
        return model_.files_.find(name.substr(family_.prefix().size()));
    }
    const TensorInfo* head() const { return find(std::string(family_.path(kHead)) + ".weight"); }

    // nullptr for a bias that the file may lack.
    Result<const TensorInfo*> take(const ModelTensor& place) {
        const TensorSpec& spec = place.spec;
        const TensorInfo* tensor = find(spec.name);
        if (!tensor && place.part == kEmbedding && model_.config_.tied_head) {
            tensor = head();  // some files keep only the other name
        }
        if (!tensor && place.or_zero) return nullptr;
        if (!tensor) {
            return make_error(Errc::InvalidModel,
                              model_.files_.files().front().path().parent_path().string() +
                                  ": the weights lack tensor " + tensor::describe(spec) +
                                  ", which config.json calls for");
        }
        seen_.insert(tensor->name);
        if (tensor->shape != spec.shape) {
            return error(*tensor, "config.json makes its shape " +
                                      tensor::describe(spec).substr(spec.name.size() + 1));
        }
        if (tensor->dtype != DType::F32 && tensor->dtype != DType::BF16 && tensor->dtype != DType::F16) {
            return error(*tensor, "weights must be F32, F16 or BF16, or quantised by bitsandbytes");
        }
        return tensor;
    }

    // In place where the kernels can read it so: aligned, (out, in), F32 or a BF16 matrix.
    Result<WeightView> view_of(const ModelTensor& place, const TensorInfo& tensor) {
        const std::size_t rows = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
        const std::size_t cols = tensor.shape.back();
        const bool turned = is_turned(family_, place);
        const bool narrow = tensor.dtype == DType::BF16 && tensor.shape.size() == 2;
        const WeightType type = narrow ? WeightType::BF16 : WeightType::F32;
        std::span<const std::byte> bytes = tensor.bytes;
        std::vector<float> wide;
        if (tensor.dtype != DType::F32 && !narrow) {
            FEDLLM_TRY(wide, formats::read_floats(tensor));
            bytes = std::as_bytes(std::span(wide));
        }
        if (wide.empty() && !turned && is_aligned(tensor)) return WeightView{bytes.data(), type, rows, cols};
        std::byte* const own = keep(bytes.size());
        if (!turned) {
            std::memcpy(own, bytes.data(), bytes.size());
            return WeightView{own, type, rows, cols};
        }
        transpose(bytes, rows, cols, own);
        return WeightView{own, type, cols, rows};
    }

    WeightView zeros(std::size_t count) {
        std::byte* const own = keep(count * sizeof(float));
        std::memset(own, 0, count * sizeof(float));
        return {own, WeightType::F32, 1, count};
    }

    std::byte* keep(std::size_t bytes) {
        return model_.owned_.emplace_back(std::make_unique_for_overwrite<std::byte[]>(bytes)).get();
    }

    // A tied model may store its table under both names, but then it must be one table.
    Result<void> check_copy_of_tied_head() {
        const TensorInfo* head = this->head();
        if (!model_.config_.tied_head || !head || head == model_.used_.front().front()) return {};
        seen_.insert(head->name);
        const TensorInfo& table = *model_.used_.front().front();
        if (head->dtype == table.dtype && std::ranges::equal(head->bytes, table.bytes)) {
            return {};
        }
        return error(*head, "differs from the embedding although config.json says tie_word_embeddings");
    }

    Result<void> check_nothing_is_left() const {
        for (const auto& [name, tensor] : model_.files_.tensors()) {
            if (seen_.contains(name) || is_harmless(family_, name)) continue;
            return error(*tensor, "a model of this config.json has no such tensor");
        }
        return {};
    }

    BaseModel& model_;
    const Family& family_;
    const tensor::BaseSpec base_;
    std::optional<kernels::ThreadPool> pool_;  // once something is to be quantised
    std::set<std::string, std::less<>> seen_;
};

BaseModel::BaseModel(ModelConfig config, formats::SafetensorsFolder files)
    : config_(std::move(config)), files_(std::move(files)) {}
BaseModel::BaseModel(BaseModel&&) noexcept = default;
BaseModel& BaseModel::operator=(BaseModel&&) noexcept = default;
BaseModel::~BaseModel() = default;

Result<BaseModel> BaseModel::load(const Path& folder, const tensor::BaseSpec& base) {
    FEDLLM_TRY(ModelConfig config, read_model_config(folder));
    FEDLLM_TRY(formats::SafetensorsFolder files, formats::SafetensorsFolder::open(folder));
    BaseModel model(std::move(config), std::move(files));
    FEDLLM_TRY_VOID(WeightLoader(model, base).load());
    return model;
}

std::string BaseModel::fingerprint() const {
    std::map<std::string, const std::vector<const TensorInfo*>*> by_name;
    const auto manifest = full_manifest(config_);
    for (std::size_t i = 0; i < used_.size(); ++i) by_name.emplace(manifest.tensors()[i].name, &used_[i]);
    crypto::Sha256 hash;
    hash.update("fedllm base model 1\n" + canonical_text(config_) + "\n");
    for (const auto& [name, tensors] : by_name) {
        for (const TensorInfo* tensor : *tensors) {
            const TensorSpec spec{tensor == tensors->front() ? name : tensor->name, tensor->shape};
            hash.update(tensor::describe(spec) + " " + std::string(tensor::name(tensor->dtype)) + "\n");
            hash_sample(hash, tensor->bytes);
        }
    }
    return crypto::to_hex(hash.finish());
}

bool BaseModel::is_quantized() const {
    return std::any_of(used_.begin(), used_.end(), [](const auto& tensors) { return tensors.size() > 1; });
}

std::size_t BaseModel::bytes_held_as(const tensor::BaseSpec& base) const {
    const std::vector<ModelTensor> places = model_tensors(config_);
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < views_.size(); ++i) {
        const WeightView& view = views_[i];
        const bool linear = is_linear(places[i].part) && !places[i].is_bias;
        const bool plain = used_[i].size() < 2;
        const bool head = places[i].part == (config_.tied_head ? kEmbedding : kHead);
        const bool integers = base.compute == tensor::BaseCompute::Int8;
        if (integers && linear) bytes += kernels::int8_weight_bytes(view.rows, view.cols);
        if (integers && head) {
            bytes += kernels::int8_weight_bytes(view.rows, view.cols, kernels::Int8Use::Forward);
        }
        // Of a stored layer that is computed with in integers the pages are let go.
        if (integers && linear && plain && base.storage == tensor::BaseStorage::AsStored) continue;
        if (linear && plain && base.storage != tensor::BaseStorage::AsStored) {
            bytes += kernels::bytes_of(held_type(base.storage), view.rows, view.cols);
        } else {
            bytes += kernels::bytes_of(view.type, view.rows, view.cols, view.block);
        }
    }
    return bytes;
}

tensor::ParamSet full_parameters(const BaseModel& model) {
    tensor::ParamSet parameters(full_manifest(model.config()));
    kernels::ThreadPool pool;
    const auto places = model_tensors(model.config());
    std::vector<float> turned;
    for (std::size_t i = 0; i < places.size(); ++i) {
        const WeightView& view = model.views_[i];
        const auto values = parameters.tensor(i);
        kernels::dequantize(pool, view, values);
        if (!is_turned(*model.config().family, places[i])) continue;
        turned.assign(values.begin(), values.end());
        transpose(std::as_bytes(std::span(turned)), view.rows, view.cols,
                  std::as_writable_bytes(values).data());
    }
    return parameters;
}

}  // namespace fedllm::client::model
