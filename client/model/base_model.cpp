#include "client/model/base_model.hpp"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>

#include "client/model/manifests.hpp"
#include "common/crypto/sha256.hpp"
#include "common/formats/json.hpp"
#include "kernels/quantize/op.hpp"

namespace fedllm::client::model {

using formats::TensorInfo;
using kernels::WeightType;
using kernels::WeightView;
using tensor::DType;
using tensor::TensorSpec;

namespace {

constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
constexpr std::string_view kHead = "lm_head.weight";

bool is_aligned(const TensorInfo& tensor) {
    return reinterpret_cast<std::uintptr_t>(tensor.bytes.data()) % tensor::size_of(tensor.dtype) == 0;
}

// Buffers that old exporters saved and that hold nothing but RoPE's frequencies.
bool is_harmless(std::string_view name) { return name.ends_with("rotary_emb.inv_freq"); }

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

// Finds, checks and, where needed, converts every tensor of full_manifest().
class WeightLoader {
public:
    WeightLoader(BaseModel& model, tensor::Storage storage) : model_(model), storage_(storage) {}

    Result<void> load() {
        const auto manifest = full_manifest(model_.config_);
        for (const TensorSpec& spec : manifest.tensors()) {
            const std::string name = name_in_file(spec);
            FEDLLM_TRY(WeightView view,
                       is_quantized(model_.files_, name) ? quantized(spec, name) : plain(spec, name));
            if (is_linear(spec)) {
                FEDLLM_TRY(view, as_wanted(view));
            }
            model_.views_.push_back(view);
        }
        FEDLLM_TRY_VOID(check_copy_of_tied_head());
        FEDLLM_TRY_VOID(check_nothing_is_left());
        model_.weights_ = arrange(model_.config_, model_.views_);
        return {};
    }

private:
    Error error(const TensorInfo& tensor, const std::string& what) const {
        return make_error(Errc::InvalidModel, model_.files_.file_of(tensor.name) + ": tensor " +
                                                  formats::describe(tensor) + ": " + what);
    }

    // A linear layer of a block: what may be quantised. The head may come quantised, but is never made so.
    static bool is_linear(const TensorSpec& spec) {
        return spec.shape.size() == 2 && spec.name != kEmbedding && spec.name != kHead;
    }

    // Some files of tied models keep only the other name of the table.
    std::string name_in_file(const TensorSpec& spec) const {
        const bool other = spec.name == kEmbedding && model_.config_.tied_head &&
                           model_.files_.find(spec.name) == nullptr && model_.files_.find(kHead) != nullptr;
        return other ? std::string(kHead) : spec.name;
    }

    Result<WeightView> plain(const TensorSpec& spec, const std::string& name) {
        FEDLLM_TRY(const TensorInfo* const tensor, take(spec, name));
        model_.used_.push_back({tensor});
        return view_of(*tensor);
    }

    Result<WeightView> quantized(const TensorSpec& spec, const std::string& name) {
        if (spec.shape.size() != 2 || spec.name == kEmbedding) {
            return error(*model_.files_.find(name), "is quantised; only linear layers may be");
        }
        FEDLLM_TRY(QuantizedWeight weight, read_quantized(model_.files_, name, spec.shape[0], spec.shape[1]));
        for (const TensorInfo* tensor : weight.tensors) seen_.insert(tensor->name);
        model_.used_.push_back(std::move(weight.tensors));
        model_.held_.push_back(std::move(weight.held));
        return model_.held_.back().view;
    }

    // The weight last used, held as storage_ says.
    Result<WeightView> as_wanted(const WeightView& view) {
        if (storage_ == tensor::Storage::AsStored || view.type == held_type(storage_)) return view;
        const TensorInfo& tensor = *model_.used_.back().front();
        if (view.type != WeightType::F32 && view.type != WeightType::BF16) {
            return error(
                tensor,
                "is quantised already and cannot be held in another type; use base.storage: as_stored");
        }
        if (!pool_) pool_.emplace();
        auto held = hold_as(*pool_, view, storage_);
        if (!held) return error(tensor, held.error().message);
        release_pages(tensor.bytes);
        if (!model_.owned_.empty() && model_.owned_.back().data() == view.data) model_.owned_.pop_back();
        model_.held_.push_back(std::move(*held));
        return model_.held_.back().view;
    }

    Result<const TensorInfo*> take(const TensorSpec& spec, const std::string& name) {
        const TensorInfo* tensor = model_.files_.find(name);
        if (!tensor) {
            return make_error(Errc::InvalidModel,
                              model_.files_.files().front().path().parent_path().string() +
                                  ": the weights lack tensor " + tensor::describe(spec) +
                                  ", which config.json calls for");
        }
        seen_.insert(name);
        if (tensor->shape != spec.shape) {
            return error(*tensor, "config.json makes its shape " +
                                      tensor::describe(spec).substr(spec.name.size() + 1));
        }
        if (tensor->dtype != DType::F32 && tensor->dtype != DType::BF16 && tensor->dtype != DType::F16) {
            return error(*tensor, "weights must be F32, F16 or BF16, or quantised by bitsandbytes");
        }
        return tensor;
    }

    Result<WeightView> view_of(const TensorInfo& tensor) {
        const std::size_t rows = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
        const std::size_t cols = tensor.shape.back();
        const bool in_place =
            is_aligned(tensor) &&
            (tensor.dtype == DType::F32 || (tensor.dtype == DType::BF16 && tensor.shape.size() == 2));
        if (in_place) {
            const WeightType type = tensor.dtype == DType::F32 ? WeightType::F32 : WeightType::BF16;
            return WeightView{tensor.bytes.data(), type, rows, cols};
        }
        FEDLLM_TRY(std::vector<float> floats, formats::read_floats(tensor));
        model_.owned_.push_back(std::move(floats));
        return WeightView{model_.owned_.back().data(), WeightType::F32, rows, cols};
    }

    // A tied model may store its table under both names, but then it must be one table.
    Result<void> check_copy_of_tied_head() {
        const TensorInfo* head = model_.files_.find(kHead);
        if (!model_.config_.tied_head || !head || head == model_.used_.front().front()) return {};
        seen_.insert(std::string(kHead));
        const TensorInfo& table = *model_.used_.front().front();
        if (head->dtype == table.dtype && std::ranges::equal(head->bytes, table.bytes)) {
            return {};
        }
        return error(*head, "differs from the embedding although config.json says tie_word_embeddings");
    }

    Result<void> check_nothing_is_left() const {
        for (const auto& [name, tensor] : model_.files_.tensors()) {
            if (seen_.contains(name) || is_harmless(name)) continue;
            return error(*tensor, "a model of this config.json has no such tensor");
        }
        return {};
    }

    BaseModel& model_;
    const tensor::Storage storage_;
    std::optional<kernels::ThreadPool> pool_;  // once something is to be quantised
    std::set<std::string, std::less<>> seen_;
};

Result<BaseModel> BaseModel::load(const Path& folder, tensor::Storage storage) {
    FEDLLM_TRY(ModelConfig config, read_model_config(folder));
    FEDLLM_TRY(formats::SafetensorsFolder files, formats::SafetensorsFolder::open(folder));
    BaseModel model(std::move(config), std::move(files));
    FEDLLM_TRY_VOID(WeightLoader(model, storage).load());
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

tensor::ParamSet full_parameters(const BaseModel& model) {
    tensor::ParamSet parameters(full_manifest(model.config()));
    kernels::ThreadPool pool;
    for (std::size_t i = 0; i < model.views_.size(); ++i) {
        kernels::dequantize(pool, model.views_[i], parameters.tensor(i));
    }
    return parameters;
}

}  // namespace fedllm::client::model
